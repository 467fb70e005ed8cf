//! The way back: gradients of every parameter.

use dropcap_kernels::gated_attention::{self, Margin, VoterGradient};
use dropcap_kernels::{
    Epilogue, GeluKind, Team, gelu_backward, rms_norm_heads_backward, rotate_back, silu_mul_backward,
};
use dropcap_model::Mlp;

use super::activations::{Activations, GateActivations, LayerActivations, Scratch};
use super::forward::rule;
use super::mixture::Mixture;
use super::parameters::TrainedGradients;
use super::pruning::Pruning;
use super::{Layer, Network};
use crate::TrainError;

/// What else than the loss of the text pulls at the gates of the layers.
#[derive(Debug, Clone, Copy)]
pub enum Pull<'a> {
    /// Nothing.
    None,
    /// Soft gates: each pair's survival I costs this much.
    PerPair {
        /// The derivative of the loss by each I.
        weight: f32,
        /// Whether the last query's pairs cost, as in the paper's form; the public code leaves them out.
        last_query: bool,
    },
    /// Hard gates: what keeping an entry at the threshold costs, per layer.
    PerEntry(&'a [f32]),
}

/// What one layer's gates met in one pass, summed over its gate heads and pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// Sum of phi G: the loss's own pull at the threshold.
    pub pull: f64,
    /// Sum of phi: how many pairs stand near the threshold.
    pub weight: f64,
}

impl Network {
    /// Adds the gradients of the trained parameters, f32 `[layout.trained()]`, for one forward pass whose head has left the gradient of its input in
    /// `activations`, and gives what the gates of each layer met.
    ///
    /// # Errors
    /// Arguments that are not those of the forward pass.
    pub fn backward(
        &self,
        team: &Team,
        values: &[f32],
        pruning: &Pruning<'_>,
        pull: Pull<'_>,
        activations: &mut Activations,
        gradients: &mut [f32],
    ) -> Result<Vec<Pressure>, TrainError> {
        let gradients = &mut self.layout.gradients(gradients);
        let layers = self.layers.len();
        for gates in &mut activations.gates {
            gates.d_query.fill(0.0);
            gates.d_key.fill(0.0);
            gates.d_bias.fill(0.0);
        }
        activations.d_shares.fill(0.0);
        let Activations { residual, scratch, .. } = activations;
        // The head left the gradient of the final norm's output.
        scratch.d_residual.fill(0.0);
        let Scratch { d_input, d_residual, .. } = scratch;
        self.final_norm.backward(team, values, &residual[layers], d_input, d_residual, gradients)?;

        let mut met = vec![Pressure::default(); layers];
        for index in (0..layers).rev() {
            if activations.recompute && index + 1 < layers {
                self.layer_forward(team, values, pruning, index, activations)?;
            }
            met[index] = self.layer_backward(team, values, pruning, pull, index, activations, gradients)?;
        }
        self.embedding_backward(activations, gradients);
        Ok(met)
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of backward, split for reading only")]
    fn layer_backward(
        &self,
        team: &Team,
        values: &[f32],
        pruning: &Pruning<'_>,
        pull: Pull<'_>,
        index: usize,
        activations: &mut Activations,
        gradients: &mut TrainedGradients<'_>,
    ) -> Result<Pressure, TrainError> {
        let layer = &self.layers[index];
        let slot = activations.slot(index);
        let (sequences, tokens) = (activations.sequences, activations.tokens);
        let Activations { residual, layers, gates, scratch, d_shares, .. } = activations;
        let saved = &layers[slot];
        self.feed_forward_backward(team, values, layer, saved, scratch, gradients)?;

        let Scratch { d_residual, d_input, d_mixed, d_qkv, noise, refusal, .. } = scratch;
        layer.output.weight_gradient(team, &saved.mixed, d_residual, gradients)?;
        layer.output.input_gradient(team, d_residual, Epilogue::Store, d_mixed)?;
        let attended = match Mixture::of(pruning, index, &self.config)? {
            Some(mixture) => {
                mixture.back(&saved.streaming, d_mixed, d_shares);
                &saved.streaming
            }
            None => &saved.mixed,
        };

        let shape = self.shape(index, sequences, tokens, pruning);
        let (voters, mut voter_gradients): (Vec<_>, Vec<_>) = match pruning {
            Pruning::Dense => Default::default(),
            Pruning::Windows { .. } | Pruning::Mixed { .. } => [refusal.split()].into_iter().unzip(),
            Pruning::Soft { .. } | Pruning::Hard { .. } => {
                gates[pruning.first_voter(index)..=index].iter_mut().map(GateActivations::split).unzip()
            }
        };
        let lambda = match pull {
            Pull::PerEntry(all) => vec![all.get(index).copied().unwrap_or_default(); shape.gate_heads],
            _ => vec![0.0; shape.gate_heads],
        };
        let pressure = match pull {
            Pull::PerPair { weight, last_query } => {
                gated_attention::Pressure::Soft { per_pair: weight, last_query }
            }
            _ if matches!(pruning, Pruning::Soft { .. }) => {
                gated_attention::Pressure::Soft { per_pair: 0.0, last_query: false }
            }
            _ => gated_attention::Pressure::Hard { lambda: &lambda },
        };
        let mut margin = Margin::default();
        gated_attention::backward(
            team,
            &shape,
            rule(pruning, index, &shape, noise),
            &voters,
            &saved.qkv,
            self.fused_width(),
            attended,
            d_mixed,
            &saved.attention,
            pressure,
            d_qkv,
            &mut voter_gradients,
            &mut margin,
        )?;
        drop((voters, voter_gradients));
        self.turn_back(team, values, layer, tokens, saved, d_qkv, gradients)?;

        layer.qkv.weight_gradient(team, &saved.attention_input, d_qkv, gradients)?;
        layer.qkv.input_gradient(team, d_qkv, Epilogue::Store, d_input)?;
        let votes = matches!(pruning, Pruning::Soft { .. } | Pruning::Hard { .. });
        if let (Some(slots), true) = (&layer.gates, votes) {
            let own = &gates[index];
            let query = slots.query.as_ref().map(|map| (map, &own.d_query));
            for (map, gradient) in query.into_iter().chain([(&slots.key, &own.d_key)]) {
                map.weight_gradient(team, &saved.attention_input, gradient, gradients)?;
                map.input_gradient(team, gradient, Epilogue::Add, d_input)?;
            }
            let bias = gradients.of(&slots.bias).unwrap_or_default();
            bias.iter_mut().zip(&own.d_bias).for_each(|(to, add)| *to += *add as f32);
        }
        layer.attention_norm.backward(team, values, &residual[index], d_input, d_residual, gradients)?;
        Ok(Pressure { pull: margin.worth.iter().sum(), weight: margin.weight.iter().sum() })
    }

    /// Through the MLP: from the gradient of the residual stream after it to that before it, in place.
    fn feed_forward_backward(
        &self,
        team: &Team,
        values: &[f32],
        layer: &Layer,
        saved: &LayerActivations,
        scratch: &mut Scratch,
        gradients: &mut TrainedGradients<'_>,
    ) -> Result<(), TrainError> {
        let Scratch { d_residual, d_input, d_up, d_active, .. } = scratch;
        layer.down.weight_gradient(team, &saved.active, d_residual, gradients)?;
        layer.down.input_gradient(team, d_residual, Epilogue::Store, d_active)?;
        match self.config.mlp {
            Mlp::GeluTanh => gelu_backward(team, GeluKind::Tanh, &saved.up, d_active, d_up)?,
            Mlp::Gelu => gelu_backward(team, GeluKind::Erf, &saved.up, d_active, d_up)?,
            Mlp::SwiGlu => silu_mul_backward(team, &saved.up, self.config.intermediate, d_active, d_up)?,
        }
        layer.up.weight_gradient(team, &saved.mlp_input, d_up, gradients)?;
        layer.up.input_gradient(team, d_up, Epilogue::Store, d_input)?;
        layer.mlp_norm.backward(team, values, &saved.middle, d_input, d_residual, gradients)
    }

    /// Undoes the rotation and the norms of queries and keys in their gradient.
    #[expect(clippy::too_many_arguments, reason = "one private step of backward, split for reading only")]
    fn turn_back(
        &self,
        team: &Team,
        values: &[f32],
        layer: &Layer,
        tokens: usize,
        saved: &LayerActivations,
        d_qkv: &mut [f32],
        gradients: &mut TrainedGradients<'_>,
    ) -> Result<(), TrainError> {
        let (config, stride) = (&self.config, self.fused_width());
        if let Some(angles) = self.angles(d_qkv.len() / stride, tokens) {
            let heads = config.heads + config.kv_heads;
            rotate_back(team, d_qkv, stride, 0, heads, config.head_dim, &angles)?;
        }
        let norms =
            [(&layer.query_norm, 0, config.heads), (&layer.key_norm, config.query_width(), config.kv_heads)];
        for (norm, offset, heads) in norms {
            if let Some(range) = norm {
                let (weight, epsilon) = (&values[range.clone()], config.norm.epsilon);
                let mut unwanted = Vec::new();
                let dweight = gradients.of(range).unwrap_or_else(|| {
                    unwanted.resize(range.len(), 0.0);
                    &mut unwanted
                });
                rms_norm_heads_backward(
                    team,
                    &saved.unnormed,
                    stride,
                    offset,
                    heads,
                    weight,
                    epsilon,
                    d_qkv,
                    dweight,
                )?;
            }
        }
        Ok(())
    }

    fn embedding_backward(&self, activations: &Activations, gradients: &mut TrainedGradients<'_>) {
        let (width, tokens) = (self.config.hidden, activations.tokens);
        let rows = activations.scratch.d_residual.chunks_exact(width);
        for (index, (row, &id)) in rows.zip(&activations.ids).enumerate() {
            let mut add = |start: usize| {
                let gradient = gradients.of(&(start..start + width)).unwrap_or_default();
                gradient.iter_mut().zip(row).for_each(|(to, add)| *to += add);
            };
            add(self.embedding.start + id as usize * width);
            if let Some(positions) = &self.positions {
                add(positions.start + (index % tokens) * width);
            }
        }
    }
}

impl GateActivations {
    fn split(&mut self) -> (gated_attention::Voter<'_>, VoterGradient<'_>) {
        let Self { query, key, bias, d_query, d_key, d_bias } = self;
        (
            gated_attention::Voter { query_gates: query, key_gates: key, bias },
            VoterGradient { query_gates: d_query, key_gates: d_key, bias: d_bias },
        )
    }
}
