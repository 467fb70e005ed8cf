//! The forward pass.

use dropcap_kernels::gated_attention::{self, Rule, Voter, VoterGradient};
use dropcap_kernels::{Epilogue, GeluKind, RopeAngles, Team, gelu, rms_norm_heads, rotate, silu_mul};
use dropcap_model::{DecoderConfig, Mlp, ModelError};

use super::activations::{Activations, GateActivations, LayerActivations, Outcome, Refusal, Scratch};
use super::cached::round;
use super::mixture::Mixture;
use super::pruning::Pruning;
use super::{Layer, Network};
use crate::TrainError;

impl Network {
    /// Runs the layers over `ids` `[b, T]` and leaves everything that the way back needs in `activations`, the input
    /// of the head in particular.
    ///
    /// # Errors
    /// A token outside the vocabulary, more tokens than the model has positions, a batch that is not what the
    /// activations were made for.
    pub fn forward(
        &self,
        team: &Team,
        values: &[f32],
        pruning: &Pruning<'_>,
        ids: &[u32],
        activations: &mut Activations,
    ) -> Result<(), TrainError> {
        self.embed(values, ids, activations)?;
        for layer in 0..self.layers.len() {
            self.layer_forward(team, values, pruning, layer, activations)?;
        }
        let Activations { residual, normed, .. } = activations;
        let last = residual.last().map(Vec::as_slice).unwrap_or_default();
        self.final_norm.apply(team, values, last, normed)
    }

    pub(super) fn embed(
        &self,
        values: &[f32],
        ids: &[u32],
        activations: &mut Activations,
    ) -> Result<(), TrainError> {
        let (config, tokens) = (&self.config, activations.tokens);
        if ids.len() != activations.rows() {
            let what = format!("{} token ids for {} rows", ids.len(), activations.rows());
            return Err(TrainError::Internal { what });
        }
        check_tokens(config, tokens, ids)?;
        ids.clone_into(&mut activations.ids);
        let width = config.hidden;
        let table = &values[self.embedding.clone()];
        let rows = activations.residual[0].chunks_exact_mut(width);
        for (index, (row, &id)) in rows.zip(ids).enumerate() {
            row.copy_from_slice(&table[id as usize * width..][..width]);
            if let Some(positions) = &self.positions {
                let learned = &values[positions.clone()][(index % tokens) * width..][..width];
                row.iter_mut().zip(learned).for_each(|(x, shift)| *x += shift);
            }
        }
        Ok(())
    }

    /// Computes one layer from the residual stream before it: on the way up, and again on the way back when
    /// activations are recomputed.
    pub(super) fn layer_forward(
        &self,
        team: &Team,
        values: &[f32],
        pruning: &Pruning<'_>,
        index: usize,
        activations: &mut Activations,
    ) -> Result<(), TrainError> {
        let layer = &self.layers[index];
        let (sequences, tokens) = (activations.sequences, activations.tokens);
        let slot = activations.slot(index);
        let (before, after) = activations.residual.split_at_mut(index + 1);
        let (before, after) = (&before[index], &mut after[0]);
        let saved = &mut activations.layers[slot];

        layer.attention_norm.apply(team, values, before, &mut saved.attention_input)?;
        layer.qkv.apply(team, values, &saved.attention_input, Epilogue::Store, &mut saved.qkv)?;
        self.turn(team, values, layer, tokens, saved)?;
        for row in saved.qkv.chunks_exact_mut(self.fused_width()) {
            round(self.cache, &mut row[self.config.query_width()..]);
        }

        let shape = self.shape(index, sequences, tokens, pruning);
        let Scratch { noise, refusal, .. } = &mut activations.scratch;
        let voters = match pruning {
            Pruning::Dense => Vec::new(),
            Pruning::Windows { .. } | Pruning::Mixed { .. } => vec![refusal.voter()],
            Pruning::Soft { .. } | Pruning::Hard { .. } => {
                let gates = self.vote(team, values, pruning, index, saved, &mut activations.gates)?;
                gates.iter().map(GateActivations::voter).collect()
            }
        };
        let rule = rule(pruning, index, &shape, noise);
        let stride = self.fused_width();
        let LayerActivations { qkv, mixed, streaming, attention, .. } = saved;
        gated_attention::forward(team, &shape, rule, &voters, qkv, stride, mixed, attention)?;
        if let Some(mixture) = Mixture::of(pruning, index, &self.config)? {
            mixture.blend(mixed, streaming)?;
        }
        let Outcome { expires_at, survival } = &mut activations.outcomes[index];
        attention.expires_at().clone_into(expires_at);
        *survival = [attention.sum_of_gates(false), attention.sum_of_gates(true)];

        saved.middle.copy_from_slice(before);
        layer.output.apply(team, values, &saved.mixed, Epilogue::Add, &mut saved.middle)?;
        layer.mlp_norm.apply(team, values, &saved.middle, &mut saved.mlp_input)?;
        layer.up.apply(team, values, &saved.mlp_input, Epilogue::Store, &mut saved.up)?;
        match self.config.mlp {
            Mlp::GeluTanh => gelu(team, GeluKind::Tanh, &saved.up, &mut saved.active)?,
            Mlp::Gelu => gelu(team, GeluKind::Erf, &saved.up, &mut saved.active)?,
            Mlp::SwiGlu => silu_mul(team, &saved.up, self.config.intermediate, &mut saved.active)?,
        }
        after.copy_from_slice(&saved.middle);
        layer.down.apply(team, values, &saved.active, Epilogue::Add, after)
    }

    /// Computes a layer's gates and gives those that vote in it: its own last, those below before it when death
    /// propagates in depth.
    fn vote<'a>(
        &self,
        team: &Team,
        values: &[f32],
        pruning: &Pruning<'_>,
        index: usize,
        saved: &LayerActivations,
        gates: &'a mut [GateActivations],
    ) -> Result<&'a [GateActivations], TrainError> {
        let missing = || TrainError::Internal { what: "a network without gates cannot prune".into() };
        let slots = self.layers[index].gates.as_ref().ok_or_else(missing)?;
        let own = gates.get_mut(index).ok_or_else(missing)?;
        slots.apply(team, values, &saved.attention_input, &mut own.query, &mut own.key)?;
        if slots.query.is_some() {
            // What decides at birth is in no cache.
            round(self.cache, &mut own.key);
        }
        let shift = match pruning {
            Pruning::Hard { shifts, .. } => shifts.get(index).copied().unwrap_or_default(),
            _ => 0.0,
        };
        let biases = own.bias.iter_mut().zip(&values[slots.bias.clone()]);
        biases.for_each(|(bias, value)| *bias = value - shift);
        Ok(&gates[pruning.first_voter(index)..=index])
    }

    /// Normalises (where the family does) and rotates queries and keys in place.
    fn turn(
        &self,
        team: &Team,
        values: &[f32],
        layer: &Layer,
        tokens: usize,
        saved: &mut LayerActivations,
    ) -> Result<(), TrainError> {
        let (config, stride) = (&self.config, self.fused_width());
        if config.qk_norm {
            saved.unnormed.copy_from_slice(&saved.qkv);
        }
        let norms =
            [(&layer.query_norm, 0, config.heads), (&layer.key_norm, config.query_width(), config.kv_heads)];
        for (norm, offset, heads) in norms {
            if let Some(weight) = norm {
                let weight = &values[weight.clone()];
                rms_norm_heads(team, &mut saved.qkv, stride, offset, heads, weight, config.norm.epsilon)?;
            }
        }
        if let Some(angles) = self.angles(saved.qkv.len() / stride, tokens) {
            let heads = config.heads + config.kv_heads;
            rotate(team, &mut saved.qkv, stride, 0, heads, config.head_dim, &angles)?;
        }
        Ok(())
    }

    /// The angles of `rows` rows in sequences of `tokens`, for families that rotate.
    pub(super) fn angles(&self, rows: usize, tokens: usize) -> Option<RopeAngles> {
        let table = self.rope.as_ref()?;
        let positions: Vec<u32> = (0..rows).map(|row| (row % tokens) as u32).collect();
        Some(table.angles(&positions))
    }
}

/// Refuses sequences that are longer than the model has positions, and tokens outside its vocabulary.
pub(crate) fn check_tokens(config: &DecoderConfig, tokens: usize, ids: &[u32]) -> Result<(), ModelError> {
    if tokens > config.max_positions {
        return Err(ModelError::TooManyPositions { wanted: tokens, limit: config.max_positions });
    }
    match ids.iter().find(|&&id| id as usize >= config.vocabulary) {
        Some(&id) => Err(ModelError::TokenOutsideVocabulary { id, vocabulary: config.vocabulary }),
        None => Ok(()),
    }
}

impl GateActivations {
    pub(super) fn voter(&self) -> Voter<'_> {
        Voter { query_gates: &self.query, key_gates: &self.key, bias: &self.bias }
    }
}

/// A bias below any score.
const REFUSE: [f32; 1] = [-1e30];

impl Refusal {
    pub(super) fn voter(&self) -> Voter<'_> {
        Voter { query_gates: &self.zeros, key_gates: &self.zeros, bias: &REFUSE }
    }

    /// The same, with where its gradients go.
    pub(super) fn split(&mut self) -> (Voter<'_>, VoterGradient<'_>) {
        let Self { zeros, d_query, d_key, d_bias } = self;
        (
            Voter { query_gates: zeros, key_gates: zeros, bias: &REFUSE },
            VoterGradient { query_gates: d_query, key_gates: d_key, bias: d_bias },
        )
    }
}

impl Pruning<'_> {
    /// The lowest layer whose gates vote in a layer.
    pub(super) fn first_voter(&self, layer: usize) -> usize {
        match self {
            Pruning::Soft { in_depth: true, .. } => 0,
            _ => layer,
        }
    }
}

/// The kernel's rule for one layer; noise is drawn into `noise`.
pub(super) fn rule<'a>(
    pruning: &Pruning<'a>,
    layer: usize,
    shape: &gated_attention::GatedShape,
    noise: &'a mut Vec<f32>,
) -> Rule<'a> {
    match pruning {
        Pruning::Dense | Pruning::Windows { .. } | Pruning::Mixed { .. } => Rule::Hard { noise: None },
        Pruning::Soft { curve, .. } => Rule::Soft { curve },
        Pruning::Hard { noise: None, .. } => Rule::Hard { noise: None },
        Pruning::Hard { noise: Some(drawn), .. } => {
            noise.resize(shape.sequences * shape.gate_heads * shape.tokens, 0.0);
            drawn.fill(layer, noise);
            Rule::Hard { noise: Some(noise) }
        }
    }
}
