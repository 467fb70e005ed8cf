//! The decoder in training: the forward pass with gates, and its gradients, written out operation by operation.
//!
//! The same [`DecoderConfig`] and [`WeightPlan`] that inference uses describe the model, so every family that can be
//! loaded can be trained. Everything runs on a batch of b sequences of T tokens; batches larger than memory are cut
//! into micro-batches by the caller, and gradients add up.

mod activations;
mod backward;
mod cached;
mod factors;
mod forward;
mod gates;
mod head;
mod initialize;
mod matrix;
mod mixture;
mod norm;
mod parameters;
mod pruning;
mod stages;
#[cfg(test)]
mod tests;

use std::ops::Range;

use dropcap_kernels::gated_attention::GatedShape;
use dropcap_kernels::{AttentionShape, DType, RopeTable, Team};
use dropcap_model::{DecoderConfig, LayerPlan, Position, WeightPlan};
use dropcap_policy::Floors;

pub use activations::Activations;
pub use backward::{Pressure, Pull};
pub use factors::FactorForm;
pub(crate) use forward::check_tokens;
pub use gates::GateForm;
pub use head::{Distillation, Gradients, Loss, Teacher};
pub use initialize::initialize;
pub use parameters::{Group, Layout, Slot};
pub use pruning::{Noise, Pruning};

use crate::TrainError;
use gates::GateSlots;
use matrix::Matrix;
use norm::NormSlots;

/// A decoder whose parameters lie in one array, packed for the products of a step.
#[derive(Debug)]
pub struct Network {
    config: DecoderConfig,
    layout: Layout,
    embedding: Range<usize>,
    positions: Option<Range<usize>>,
    rope: Option<RopeTable>,
    layers: Vec<Layer>,
    final_norm: NormSlots,
    head: Matrix,
    gates: Option<GateForm>,
    /// How inference will store keys, values and the key gates of those that vote.
    cache: DType,
}

#[derive(Debug)]
struct Layer {
    attention_norm: NormSlots,
    qkv: Matrix,
    query_norm: Option<Range<usize>>,
    key_norm: Option<Range<usize>>,
    output: Matrix,
    mlp_norm: NormSlots,
    up: Matrix,
    down: Matrix,
    gates: Option<GateSlots>,
}

impl Layer {
    fn products(&mut self) -> [&mut Matrix; 4] {
        [&mut self.qkv, &mut self.output, &mut self.up, &mut self.down]
    }
}

impl Network {
    /// The network of a config and its plan, with or without gates. `input_scales`, one vector `[c]` per layer,
    /// multiply the channels that the gates read; empty for none.
    ///
    /// Nothing is packed yet: [`Network::refill`] does that from a parameter array of [`Network::layout`].
    ///
    /// # Errors
    /// Matrices too large for memory.
    pub fn new(
        config: &DecoderConfig,
        plan: &WeightPlan,
        gates: Option<GateForm>,
        input_scales: &[Vec<f32>],
    ) -> Result<Self, TrainError> {
        let layout = Layout::new(config, plan, gates);
        let layer = |(index, layer): (usize, &LayerPlan)| -> Result<Layer, TrainError> {
            let range = |part: &Option<dropcap_model::VectorPart>| {
                part.as_ref().map(|part| layout.range(&part.tensor)).transpose()
            };
            let scale = input_scales.get(index).map(Vec::as_slice);
            let gates = gates.map(|form| form.slots(&layout, index, config.hidden, scale)).transpose()?;
            Ok(Layer {
                attention_norm: NormSlots::planned(&layer.attention_norm, config.norm, &layout)?,
                qkv: Matrix::planned(&layer.qkv, &layout)?,
                query_norm: range(&layer.query_norm)?,
                key_norm: range(&layer.key_norm)?,
                output: Matrix::planned(&layer.output, &layout)?,
                mlp_norm: NormSlots::planned(&layer.mlp_norm, config.norm, &layout)?,
                up: Matrix::planned(&layer.up, &layout)?,
                down: Matrix::planned(&layer.down, &layout)?,
                gates,
            })
        };
        let part = |plan: &dropcap_model::MatrixPlan| {
            let name = plan.parts.first().map_or("", |part| part.tensor.as_str());
            layout.range(name)
        };
        Ok(Self {
            embedding: part(&plan.embedding)?,
            positions: plan.positions.as_ref().map(part).transpose()?,
            rope: match config.position {
                Position::Learned => None,
                Position::Rope(rope) => {
                    let (inv_freq, attention_scaling) = rope.frequencies(config.head_dim);
                    Some(RopeTable { inv_freq, attention_scaling })
                }
            },
            layers: plan.layers.iter().enumerate().map(layer).collect::<Result<_, _>>()?,
            final_norm: NormSlots::planned(&plan.final_norm, config.norm, &layout)?,
            head: Matrix::planned(plan.head.as_ref().unwrap_or(&plan.embedding), &layout)?,
            gates,
            cache: DType::F32,
            config: config.clone(),
            layout,
        })
    }

    /// The same network for a cache of another format than f32: keys, values and key gates are rounded as its pages
    /// will hold them, and gradients pass straight through.
    #[must_use]
    pub fn cached_as(self, dtype: DType) -> Self {
        Self { cache: dtype, ..self }
    }

    /// The same network with its weights held: they have no gradients, and are packed when they are first met.
    #[must_use]
    pub fn with_held_weights(mut self) -> Self {
        self.layout = self.layout.holding_weights();
        self
    }

    /// The same network with its weights held and factors beside some of them, which its plan names.
    ///
    /// # Errors
    /// Matrices too large for memory.
    pub fn with_factors(mut self, form: &FactorForm, plan: &WeightPlan) -> Result<Self, TrainError> {
        self.layout = self.layout.with_factors(form, plan);
        for (layer, planned) in self.layers.iter_mut().zip(&plan.layers) {
            let products = [&planned.qkv, &planned.output, &planned.up, &planned.down];
            for (matrix, planned) in layer.products().into_iter().zip(products) {
                matrix.add_factors(form, plan, planned, &self.layout)?;
            }
        }
        Ok(self)
    }

    /// The same network for forward passes alone, which take half as much memory for packed weights.
    #[must_use]
    pub fn forward_only(mut self) -> Self {
        self.layers.iter_mut().flat_map(Layer::products).for_each(Matrix::forward_only);
        self.head.forward_only();
        self
    }

    /// Multiplies the channels of the gates' input by others, one vector `[c]` per layer, once it is packed again.
    ///
    /// # Errors
    /// Scales of another model.
    pub fn rescale(&mut self, input_scales: &[Vec<f32>]) -> Result<(), TrainError> {
        let hidden = self.config.hidden;
        if input_scales.len() != self.layers.len() || input_scales.iter().any(|scale| scale.len() != hidden) {
            let what =
                format!("scales of {} layers for a model of {}", input_scales.len(), self.layers.len());
            return Err(TrainError::Internal { what });
        }
        for (layer, scale) in self.layers.iter_mut().zip(input_scales) {
            if let Some(gates) = &mut layer.gates {
                gates.rescale(scale);
            }
        }
        Ok(())
    }

    /// What the network computes.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where its parameters lie.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The form of its gates, if it has any.
    #[must_use]
    pub fn gates(&self) -> Option<GateForm> {
        self.gates
    }

    /// Packs the values of a step, f32 `[layout.len()]`.
    ///
    /// # Errors
    /// None for an array of the layout.
    pub fn refill(&mut self, team: &Team, values: &[f32]) -> Result<(), TrainError> {
        let trained = self.layout.trained();
        for layer in &mut self.layers {
            for matrix in layer.products() {
                matrix.refill(team, values, &trained)?;
            }
            if let Some(gates) = &mut layer.gates {
                gates.refill(team, values, &trained)?;
            }
        }
        self.head.refill(team, values, &trained)
    }

    /// Room for a batch of this network.
    #[must_use]
    pub fn activations(&self, sequences: usize, tokens: usize, recompute: bool) -> Activations {
        Activations::new(&self.config, self.gates, sequences, tokens, recompute)
    }

    /// The published sparsity term of a forward pass with soft gates: the mean of I over layers, gate heads, sequences,
    /// queries 0..T-1 and **all** T keys, those above the diagonal counting 1 (arXiv 2305.15805, public code).
    #[must_use]
    pub fn mean_survival(&self, activations: &Activations) -> f64 {
        let heads = self.gates.map_or(1, |form| form.heads);
        let (lanes, tokens) = (activations.sequences * heads, activations.tokens);
        mean_survival(activations.outcomes.iter().map(|outcome| outcome.survival[0]), lanes, tokens)
    }

    /// Width of a row `[q | k | v]`.
    fn fused_width(&self) -> usize {
        self.config.query_width() + 2 * self.config.key_width()
    }

    fn shape(&self, layer: usize, sequences: usize, tokens: usize, pruning: &Pruning<'_>) -> GatedShape {
        gated_shape(&self.config, self.gates, layer, [sequences, tokens], pruning)
    }
}

/// The shape of a layer's attention over b sequences of T tokens, `[b, T]`.
pub(crate) fn gated_shape(
    config: &DecoderConfig,
    gates: Option<GateForm>,
    layer: usize,
    [sequences, tokens]: [usize; 2],
    pruning: &Pruning<'_>,
) -> GatedShape {
    let one = GateForm::votes(1, 1);
    let (form, Floors { sinks, recent }) = match pruning {
        Pruning::Dense => (one, Floors::default()),
        Pruning::Windows { floors } | Pruning::Mixed { floors, .. } => {
            (one, floors.get(layer).copied().unwrap_or_default())
        }
        Pruning::Soft { floors, .. } | Pruning::Hard { floors, .. } => (gates.unwrap_or(one), *floors),
    };
    GatedShape {
        sequences,
        tokens,
        attention: AttentionShape {
            query_heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale(layer),
        },
        gate_heads: form.heads,
        gate_width: form.width,
        sliding_window: config.sliding_window.get(layer).copied().flatten(),
        sinks,
        recent: recent.max(1),
    }
}

/// The mean of I from its sum over the pairs below the diagonal in each layer's lanes, without the last query: see
/// [`Network::mean_survival`].
pub(crate) fn mean_survival(sums: impl Iterator<Item = f64>, lanes: usize, tokens: usize) -> f64 {
    let queries = tokens.saturating_sub(1);
    let above = (lanes * queries * tokens / 2) as f64;
    let (mut sum, mut layers) = (0.0, 0);
    for survival in sums {
        sum += survival + above;
        layers += 1;
    }
    sum / (layers * lanes * queries * tokens).max(1) as f64
}
