//! The way back on the device.

use std::ops::Range;

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::embedding::{EmbeddingSlices, TokenRows};
use dropcap_kernels::gated_attention::{AttendedBack, DevicePressure, DeviceVoterGradient};
use dropcap_kernels::{GeluKind, KernelError};
use dropcap_model::Mlp;

use super::forward::{Run, halves};
use super::gates::{GateBack, GateInput};
use super::gradients::Gradients;
use super::network::Layer;
use super::room::{BackRoom, LayerRoom};
use super::sums::Handover;
use crate::network::{GateForm, Pruning, Pull};

/// What a pass pulls at its gates with, and where it says what they met.
#[derive(Debug, Clone, Copy)]
pub(super) struct GatePull<'a> {
    pub(super) pull: Pull<'a>,
    /// What keeping an entry costs, f32 `[layers, G]`.
    pub(super) lambda: &'a DeviceBuffer<f32>,
    /// Worth and weight of each gate, f64 `[G, 2]`, one per layer.
    pub(super) margins: &'a [DeviceBuffer<f64>],
}

impl Run<'_> {
    /// Adds the gradients of everything that trains, from that of the head's input in the room, and hands them over where
    /// other processes wait for them: says then which come last.
    pub(super) fn backward(
        &self,
        batch: &TokenRows,
        pull: GatePull<'_>,
        gradients: &Gradients,
        mut handover: Option<Handover<'_>>,
    ) -> Result<Option<Vec<Range<usize>>>, KernelError> {
        let Self { kernels, network, weights, room, .. } = self;
        let (rows, layers) = (self.rows(), network.layers.len());
        let BackRoom { d_residual, narrow, d_input, norm: scratch, .. } = &room.back;
        if let Some(handover) = &mut handover {
            handover.head(network)?;
        }
        kernels.norm.backward(
            rows,
            network.final_norm.values(weights)?,
            &room.residual[layers],
            &room.final_stats,
            d_input,
            true,
            d_residual,
            Some(narrow),
            scratch,
            network.final_norm.gradients(gradients)?,
        )?;
        for index in (0..layers).rev() {
            let slot = room.slot(index);
            if room.recompute && index + 1 < layers {
                self.layer(index, slot, &room.residual[index], &room.residual[index + 1])?;
            }
            let layer = &network.layers[index];
            self.feed_forward_backward(layer, slot, gradients)?;
            if let (Some(handover), Some(start)) = (&mut handover, layer.start_of_mlp()) {
                handover.ready(start)?;
            }
            self.attention_backward(index, slot, pull, gradients)?;
            if let Some(handover) = &mut handover {
                handover.ready(layer.start())?;
            }
        }
        if let Some(table) = gradients.of(&network.embedding)? {
            let positions = network.positions.as_ref();
            let positions = positions.map(|positions| gradients.vector(positions)).transpose()?;
            match handover.as_ref().and_then(Handover::lookup) {
                Some(lookup) => lookup.sum(kernels, batch, room.tokens, d_residual, positions)?,
                None => {
                    let tables = EmbeddingSlices { table, positions };
                    kernels.embedding.backward(batch, room.tokens, d_residual, tables)?;
                }
            }
        }
        handover.map(Handover::finish).transpose()
    }

    /// Through attention: from the gradient of the residual stream after it to that before it, in place.
    fn attention_backward(
        &self,
        index: usize,
        slot: &LayerRoom,
        pull: GatePull<'_>,
        gradients: &Gradients,
    ) -> Result<(), KernelError> {
        let Self { kernels, network, weights, room, .. } = self;
        let (layer, config, rows) = (&network.layers[index], &network.config, self.rows());
        let BackRoom { narrow, d_input, d_mixed, d_qkv, delta, d_gates, columns, .. } = &room.back;
        layer.output.gradients(kernels, gradients, rows, &slot.mixed, narrow, columns)?;
        let dy = kernels.rows(narrow, rows, config.hidden)?;
        let dx = kernels.rows(d_mixed, rows, config.query_width())?;
        layer.output.input_gradient(kernels, weights, dy, dx)?;

        // Recomputing the layers above has drawn other thresholds since.
        self.draw(index)?;
        let shape = self.shape(index);
        let call = self.call(index, slot, &shape)?;
        let heads = network.gates.map_or(0, |form| form.heads);
        let places = layer.gates.as_ref().filter(|_| call.voter.is_some());
        let gates = match places {
            None => None,
            Some(places) => {
                let [query_gates, key_gates] = halves(d_gates, network.gates.map_or(0, GateForm::row))?;
                let bias = gradients.vector(&places.bias)?;
                Some(DeviceVoterGradient { query_gates, key_gates, fresh: true, bias })
            }
        };
        let pressure = match (self.pruning, pull.pull, pull.margins.get(index)) {
            (Pruning::Hard { .. }, _, Some(margin)) => {
                let lambda = DeviceSlice::new(pull.lambda, index * heads..(index + 1) * heads)?;
                DevicePressure::Hard { lambda, margin }
            }
            (Pruning::Soft { .. }, Pull::PerPair { weight, last_query }, _) => {
                DevicePressure::Soft { per_pair: weight, last_query }
            }
            _ => DevicePressure::NONE,
        };
        let back = AttendedBack { dout: d_mixed, delta, dqkv: d_qkv };
        call.backward(&kernels.attention, pressure, back, gates)?;
        self.turn_back(layer, slot, gradients)?;

        layer.qkv.gradients(kernels, gradients, rows, &slot.attention_input, d_qkv, columns)?;
        let dy = kernels.rows(d_qkv, rows, network.fused_width())?;
        let dx = kernels.rows(d_input, rows, config.hidden)?;
        layer.qkv.input_gradient(kernels, weights, dy, dx)?;
        if let (Some(places), Some(maps)) = (places, self.maps.get(index)) {
            let input = GateInput { rows, high: &slot.attention_input, rest: None };
            let BackRoom { narrow_gates, unscaled, .. } = &room.back;
            let back = GateBack { d: d_gates, narrow: narrow_gates, unscaled, d_input };
            maps.backward(kernels, gradients, places, input, back)?;
        }
        let (norm, stats) = (&layer.attention_norm, &slot.attention_stats);
        self.norm_backward(norm, &room.residual[index], stats, index > 0, gradients)
    }

    /// Through the MLP: from the gradient of the residual stream after it to that before it, in place.
    fn feed_forward_backward(
        &self,
        layer: &Layer,
        slot: &LayerRoom,
        gradients: &Gradients,
    ) -> Result<(), KernelError> {
        let Self { kernels, network, weights, room, .. } = self;
        let (config, rows) = (&network.config, self.rows());
        let BackRoom { narrow, d_input, d_up, d_active, columns, .. } = &room.back;
        layer.down.gradients(kernels, gradients, rows, &slot.active, narrow, columns)?;
        let dy = kernels.rows(narrow, rows, config.hidden)?;
        let dx = kernels.rows(d_active, rows, config.intermediate)?;
        layer.down.input_gradient(kernels, weights, dy, dx)?;
        let (width, activation) = (config.intermediate, &kernels.activation);
        let (up, count) = (&slot.up, rows * config.intermediate);
        match config.mlp {
            Mlp::GeluTanh => activation.gelu(GeluKind::Tanh, count, up, Some(d_active), d_up)?,
            Mlp::Gelu => activation.gelu(GeluKind::Erf, count, up, Some(d_active), d_up)?,
            Mlp::SwiGlu => activation.silu_mul(rows, width, up, Some(d_active), d_up)?,
        }
        layer.up.gradients(kernels, gradients, rows, &slot.mlp_input, d_up, columns)?;
        let dy = kernels.rows(d_up, rows, config.up_width())?;
        let dx = kernels.rows(d_input, rows, config.hidden)?;
        layer.up.input_gradient(kernels, weights, dy, dx)?;
        self.norm_backward(&layer.mlp_norm, &slot.middle, &slot.mlp_stats, true, gradients)
    }

    /// Adds what comes through a norm to the gradient of the residual stream; its copy for products is wanted below.
    fn norm_backward(
        &self,
        norm: &super::network::Norm,
        x: &DeviceBuffer<f32>,
        stats: &DeviceBuffer<f32>,
        is_wanted_below: bool,
        gradients: &Gradients,
    ) -> Result<(), KernelError> {
        let BackRoom { d_residual, narrow, d_input, norm: scratch, .. } = &self.room.back;
        self.kernels.norm.backward(
            self.rows(),
            norm.values(self.weights)?,
            x,
            stats,
            d_input,
            false,
            d_residual,
            is_wanted_below.then_some(narrow),
            scratch,
            norm.gradients(gradients)?,
        )
    }

    /// Undoes the rotation and the norms of queries and keys in their gradient.
    fn turn_back(&self, layer: &Layer, slot: &LayerRoom, gradients: &Gradients) -> Result<(), KernelError> {
        let norms = layer.head_norms(self.weights)?.zip(layer.head_norm_gradients(gradients)?);
        let rope = self.network.rope.as_ref();
        if norms.is_none() && rope.is_none() {
            return Ok(());
        }
        let BackRoom { d_qkv, turn: scratch, .. } = &self.room.back;
        self.kernels.turn.backward(
            self.rows(),
            self.room.tokens,
            norms,
            self.network.config.norm.epsilon,
            rope,
            slot.raw.as_ref().unwrap_or(&slot.qkv),
            d_qkv,
            scratch,
        )
    }
}
