//! The kernels of one step, in order.

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSpan, StepSize};
use dropcap_kernels::matmul::Target;
use dropcap_kernels::norm::{NormParameters, Unrounded};
use dropcap_kernels::rope::StepGates;

use super::decoder::DeviceDecoder;
use super::rules::{DeviceGates, Voting};
use super::weights::{DeviceLinear, DeviceNormWeights};
use crate::{Mlp, ModelError};

/// Rows from which gates are three products of bf16 instead of one of f32.
const GATES_IN_PARTS_FROM: usize = 256;

/// Which attention serves a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode<'a> {
    /// One token of every sequence: nothing that is launched depends on lengths, so that it can be recorded.
    Decode,
    /// Any tokens.
    Prefill {
        /// The spans as the device has them.
        spans: &'a [DeviceSpan],
        /// Those of them whose attention counts where entries are ranked.
        observed: &'a [DeviceSpan],
    },
}

impl DeviceNormWeights {
    fn parameters(&self) -> NormParameters<'_> {
        match &self.bias {
            Some(bias) => NormParameters::Layer { weight: &self.weight, bias },
            None => NormParameters::Rms { weight: &self.weight },
        }
    }
}

impl DeviceDecoder {
    /// Grows the lanes and runs every layer; afterwards the residual stream is ready for the head.
    pub(super) fn run_layers(&self, size: StepSize, mode: Mode<'_>) -> Result<(), ModelError> {
        let lanes = &self.lanes;
        // It looks at entries that are there, and grown lanes have some that nobody has written yet.
        self.anchor_sinks(size.spans)?;
        self.kernels.lifetimes.grow(lanes, &self.inputs, size)?;
        let weights = &*self.weights;
        let positions = weights.positions.as_ref();
        let residual = &self.scratch.residual;
        self.kernels.embedding.embed(&self.inputs, size, &weights.embedding, positions, residual)?;
        for layer in 0..weights.layers.len() {
            self.attention_block(layer, size, mode)?;
            self.mlp_block(layer, size.rows)?;
        }
        Ok(())
    }

    fn attention_block(&self, index: usize, size: StepSize, mode: Mode<'_>) -> Result<(), ModelError> {
        let (layer, scratch) = (&self.weights.layers[index], &self.scratch);
        let rows = size.rows;
        let gates = self.rules.gates.as_ref().map(|gates| &gates.layers[index]);
        let parts = gates.and_then(|gates| gates.parts.as_ref()).filter(|_| rows >= GATES_IN_PARTS_FROM);
        let unrounded = match (parts, &scratch.normed_rest, &scratch.normed_f32) {
            (Some(_), Some(rest), _) => Unrounded::Rest(rest),
            (_, _, Some(wide)) if gates.is_some() => Unrounded::Rows(wide),
            _ => Unrounded::None,
        };
        self.project(&layer.attention_norm, &layer.qkv, rows, unrounded, Target::Store(&scratch.qkv))?;
        if let (Some(gates), Some(wide), Some(out)) = (gates, &scratch.normed_f32, &scratch.gates) {
            let matmul = &self.kernels.matmul;
            if self.is_fused(&layer.qkv, rows) {
                let (norm, epsilon) = (layer.attention_norm.parameters(), self.epsilon());
                matmul.normed_product_f32(&scratch.residual, norm, epsilon, &gates.weights, rows, out)?;
            } else if let (Unrounded::Rest(rest), Some([high, left])) = (unrounded, parts) {
                matmul.product_in_parts([&scratch.normed, rest], [high, left], rows, out)?;
            } else {
                matmul.product_f32(wide, &gates.weights, rows, out)?;
            }
        }
        self.enter(index, size)?;
        let lanes = &self.lanes;
        let scale = self.weights.config.attention_scale(index);
        let attention = &self.kernels.attention;
        match mode {
            Mode::Decode => {
                let told = self.ranker.as_ref().and_then(|ranker| ranker.told());
                let (inputs, qkv, mixed) = (&self.inputs, &scratch.qkv, &scratch.mixed);
                attention.decode(lanes, inputs, size, index, scale, qkv, mixed, told)?;
                self.observe_decoded(size, index)?;
            }
            Mode::Prefill { spans, observed } => {
                let sums =
                    self.ranker.as_ref().filter(|_| !observed.is_empty()).and_then(|ranker| ranker.sums());
                let (inputs, qkv, mixed) = (&self.inputs, &scratch.qkv, &scratch.mixed);
                let told = attention.prefill(lanes, inputs, spans, index, scale, qkv, mixed, sums)?;
                self.observe(observed, index, told)?;
                self.keep_before(rows)?;
            }
        }
        let (matmul, bias) = (&self.kernels.matmul, layer.output.bias.as_ref());
        let target = Target::Add(&scratch.residual);
        matmul.product(&scratch.mixed, &layer.output.weight, bias, size.rows, target)?;
        match mode {
            Mode::Decode => Ok(()),
            Mode::Prefill { .. } => self.note_change(index, size),
        }
    }

    /// Puts the new tokens of a step into a layer's lanes and lets the policy decide.
    pub(super) fn enter(&self, index: usize, size: StepSize) -> Result<(), ModelError> {
        let (layer, lanes) = (&self.weights.layers[index], &self.lanes);
        self.kernels.append.append(
            lanes,
            &self.inputs,
            size,
            index,
            &self.scratch.qkv,
            layer.query_norm.as_ref(),
            layer.key_norm.as_ref(),
            self.epsilon(),
            self.rope.as_ref().map(|(table, pairs)| (table, *pairs)),
            self.step_gates(index),
            &self.rules.births[index],
            self.shifts(),
        )?;
        if let (Some(gates), Some(votes), Some(numbers)) =
            (&self.rules.gates, &self.kernels.votes, &self.scratch.gates)
            && let Some(Voting { decides, floors }) = gates.voting
        {
            let (floors, bias) = ((floors.sinks, floors.recent), &gates.layers[index].bias);
            votes.vote(lanes, &self.inputs, size, index, numbers, bias, floors, decides)?;
        }
        if let (Some(floors), Some(inherit)) = (self.rules.inherits, &self.kernels.inherit) {
            inherit.inherit(lanes, &self.inputs, size, index, (floors.sinks, floors.recent))?;
        }
        Ok(())
    }

    /// What a layer's gates have made of the step's tokens.
    fn step_gates(&self, index: usize) -> StepGates<'_> {
        match (&self.rules.gates, &self.scratch.gates) {
            (Some(DeviceGates { heads, voting: Some(_), .. }), Some(numbers)) => {
                StepGates::Votes { numbers, heads: *heads }
            }
            (Some(DeviceGates { heads, voting: None, layers }), Some(numbers)) => {
                StepGates::Birth { numbers, bias: &layers[index].bias, heads: *heads }
            }
            _ => StepGates::None,
        }
    }

    fn mlp_block(&self, index: usize, rows: usize) -> Result<(), ModelError> {
        let (layer, scratch) = (&self.weights.layers[index], &self.scratch);
        let config = &self.weights.config;
        let fused = self.kernels.matmul.gates(&layer.up.weight, rows);
        let target = match (config.mlp, &scratch.gated) {
            (Mlp::GeluTanh, _) => Target::GeluTanh(&scratch.up),
            (Mlp::Gelu, _) => Target::Gelu(&scratch.up),
            (Mlp::SwiGlu, Some(gated)) if fused => Target::SiluMul(gated),
            (Mlp::SwiGlu, _) => Target::Store(&scratch.up),
        };
        self.project(&layer.mlp_norm, &layer.up, rows, Unrounded::None, target)?;
        let hidden = match &scratch.gated {
            Some(gated) if fused => gated,
            Some(gated) => {
                self.kernels.activation.silu_mul(rows, config.intermediate, &scratch.up, gated)?;
                gated
            }
            None => &scratch.up,
        };
        let (matmul, bias) = (&self.kernels.matmul, layer.down.bias.as_ref());
        matmul.product(hidden, &layer.down.weight, bias, rows, Target::Add(&scratch.residual))?;
        Ok(())
    }

    /// A norm of the residual stream and the product that reads it: one launch where few rows share one reading of the
    /// weights, and then the norm is left nowhere.
    fn project(
        &self,
        norm: &DeviceNormWeights,
        linear: &DeviceLinear,
        rows: usize,
        unrounded: Unrounded<'_>,
        target: Target<'_>,
    ) -> Result<(), ModelError> {
        let (scratch, matmul, epsilon) = (&self.scratch, &self.kernels.matmul, self.epsilon());
        let (parameters, bias) = (norm.parameters(), linear.bias.as_ref());
        if self.is_fused(linear, rows) {
            let residual = &scratch.residual;
            matmul.normed_product(residual, parameters, epsilon, &linear.weight, bias, rows, target)?;
            return Ok(());
        }
        self.kernels.norm.apply(rows, parameters, epsilon, &scratch.residual, &scratch.normed, unrounded)?;
        matmul.product(&scratch.normed, &linear.weight, bias, rows, target)?;
        Ok(())
    }

    /// Whether a norm and the product after it are one launch. The gates of a layer follow its projection, since they
    /// read the same norm.
    fn is_fused(&self, linear: &DeviceLinear, rows: usize) -> bool {
        let gates = self.rules.gates.as_ref().and_then(|gates| gates.layers.first());
        let matmul = &self.kernels.matmul;
        matmul.norms(&linear.weight, rows) && gates.is_none_or(|gates| matmul.norms(&gates.weights, rows))
    }

    fn epsilon(&self) -> f32 {
        self.weights.config.norm.epsilon
    }

    /// The logits of the first `rows` rows.
    pub(super) fn decode_head(&self, rows: usize) -> Result<(), ModelError> {
        let (scratch, weights) = (&self.scratch, &*self.weights);
        let norm = weights.final_norm.parameters();
        let (matmul, head) = (&self.kernels.matmul, weights.head());
        let target = Target::StoreF32(&scratch.logits);
        if matmul.norms(head, rows) {
            matmul.normed_product(&scratch.residual, norm, self.epsilon(), head, None, rows, target)?;
            return Ok(());
        }
        self.kernels.norm.apply(
            rows,
            norm,
            self.epsilon(),
            &scratch.residual,
            &scratch.logit_inputs,
            Unrounded::None,
        )?;
        matmul.product(&scratch.logit_inputs, head, None, rows, target)?;
        Ok(())
    }

    /// The logits of the rows named in `scratch.logit_rows`.
    pub(super) fn head(&self, count: usize) -> Result<(), ModelError> {
        let (scratch, weights) = (&self.scratch, &*self.weights);
        self.kernels.norm.apply_gathered(
            weights.final_norm.parameters(),
            self.epsilon(),
            &scratch.residual,
            &scratch.logit_rows,
            count,
            &scratch.logit_inputs,
            Unrounded::None,
        )?;
        let target = Target::StoreF32(&scratch.logits);
        self.kernels.matmul.product(&scratch.logit_inputs, weights.head(), None, count, target)?;
        Ok(())
    }

    /// Tokens from the first `count` rows of logits.
    pub(super) fn sample(&self, count: usize) -> Result<(), ModelError> {
        let (sampling, logits) = (&self.sampling, &self.scratch.logits);
        let stride = self.weights.head().outputs();
        let (slots, randoms) = (&sampling.slots, &sampling.randoms);
        self.kernels.sampler.sample(count, slots, logits, stride, randoms, &sampling.tokens)?;
        Ok(())
    }

    /// Frees what the next query does not see, and leaves the state of every slot in `status`.
    pub(super) fn reclaim(&self, size: StepSize) -> Result<(), ModelError> {
        let status: &DeviceBuffer<u32> = &self.status;
        let lanes = &self.lanes;
        self.kernels.lifetimes.reclaim(lanes, &self.inputs, size, self.deaths.as_ref(), status)?;
        Ok(())
    }
}

impl DeviceDecoder {
    /// Lets the products of a decode step of `rows` tokens choose their fastest algorithms.
    pub(super) fn tune(&self, rows: usize) -> Result<(), ModelError> {
        let (scratch, matmul) = (&self.scratch, &self.kernels.matmul);
        let Some(layer) = self.weights.layers.first() else { return Ok(()) };
        let gates = self.rules.gates.as_ref().and_then(|gates| gates.layers.first());
        if let (Some(gates), Some(normed), Some(out)) = (gates, &scratch.normed_f32, &scratch.gates) {
            matmul.tune_f32(normed, &gates.weights, rows, out)?;
        }
        // Ours start before the kernel before them has ended, which a measurement of one product does not see.
        if matmul.gates(&layer.qkv.weight, rows) {
            return Ok(());
        }
        let up = match self.weights.config.mlp {
            Mlp::GeluTanh => Target::GeluTanh(&scratch.up),
            Mlp::Gelu => Target::Gelu(&scratch.up),
            Mlp::SwiGlu => Target::Store(&scratch.up),
        };
        let hidden = scratch.gated.as_ref().unwrap_or(&scratch.up);
        matmul.tune(
            &scratch.normed,
            &layer.qkv.weight,
            layer.qkv.bias.as_ref(),
            rows,
            Target::Store(&scratch.qkv),
        )?;
        matmul.tune(
            &scratch.mixed,
            &layer.output.weight,
            layer.output.bias.as_ref(),
            rows,
            Target::Add(&scratch.residual),
        )?;
        matmul.tune(&scratch.normed, &layer.up.weight, layer.up.bias.as_ref(), rows, up)?;
        matmul.tune(
            hidden,
            &layer.down.weight,
            layer.down.bias.as_ref(),
            rows,
            Target::Add(&scratch.residual),
        )?;
        let head = self.weights.head();
        matmul.tune(&scratch.logit_inputs, head, None, rows, Target::StoreF32(&scratch.logits))?;
        Ok(())
    }
}
