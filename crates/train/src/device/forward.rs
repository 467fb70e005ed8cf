//! The forward pass on the device.

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::embedding::{EmbeddingSlices, TokenRows};
use dropcap_kernels::gated_attention::{Attended, DeviceCurve, DeviceRule, DeviceVoter, GatedShape};
use dropcap_kernels::training::{KeepTable, KeptSums};
use dropcap_kernels::{DType, GeluKind, KernelError};
use dropcap_model::Mlp;

use super::attention::Call;
use super::gates::{GateInput, GateMaps};
use super::kernels::{Kernels, f32_rows};
use super::network::{Layer, Network};
use super::room::{LayerRoom, Room};
use super::sums::Sums;
use super::weights::Weights;
use super::windows::Windows;
use crate::network::{GateForm, Pruning, gated_shape};

/// One model at work on some sequences.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) network: &'a Network,
    pub(super) weights: &'a Weights,
    pub(super) room: &'a Room,
    pub(super) sequences: usize,
    pub(super) pruning: &'a Pruning<'a>,
    pub(super) windows: &'a Windows,
    /// One per layer, of gates that vote.
    pub(super) maps: &'a [GateMaps],
    /// How inference will store keys, values and key gates.
    pub(super) cache: DType,
    /// What soft votes are made with.
    pub(super) soft: Option<SoftVotes<'a>>,
    /// Those with whom weights are exchanged.
    pub(super) sums: Option<&'a Sums>,
}

/// The curve of soft votes, and where their sums of I go.
#[derive(Debug, Clone, Copy)]
pub(super) struct SoftVotes<'a> {
    pub(super) curve: &'a DeviceCurve,
    /// f64 `[layers, 2]`.
    pub(super) survival: &'a DeviceBuffer<f64>,
}

/// Where a pass counts what its layers keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counting<'a> {
    pub(super) table: &'a KeepTable,
    /// A place per layer.
    pub(super) sums: &'a KeptSums,
}

impl<'a> Run<'a> {
    pub(super) fn rows(&self) -> usize {
        self.sequences * self.room.tokens
    }

    fn epsilon(&self) -> f32 {
        self.network.config.norm.epsilon
    }

    /// Writes the residual stream before the first layer.
    pub(super) fn embed(&self, batch: &TokenRows, x: &DeviceBuffer<f32>) -> Result<(), KernelError> {
        self.sums.map_or(Ok(()), |sums| sums.arrived(0))?;
        let positions = self.network.positions.as_ref();
        let tables = EmbeddingSlices {
            table: self.weights.of(&self.network.embedding)?,
            positions: positions.map(|positions| self.weights.of(positions)).transpose()?,
        };
        self.kernels.embedding.forward(batch, self.room.tokens, tables, x)
    }

    /// All layers, each with its own intermediate numbers where the room has them; the head's input is in the room after it.
    pub(super) fn forward(
        &self,
        batch: &TokenRows,
        counting: Option<Counting<'_>>,
    ) -> Result<(), KernelError> {
        let residual = &self.room.residual;
        self.embed(batch, &residual[0])?;
        for index in 0..self.network.layers.len() {
            self.layer(index, self.room.slot(index), &residual[index], &residual[index + 1])?;
            self.count(index, self.room.slot(index), counting, index)?;
        }
        self.final_norm(residual.len() - 1, &self.room.normed)
    }

    /// All layers for their result alone, written to `out`, in the memory of one.
    pub(super) fn look(
        &self,
        batch: &TokenRows,
        counting: Option<Counting<'_>>,
        out: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let (residual, slot) = (&self.room.residual, self.room.slot(0));
        self.embed(batch, &residual[0])?;
        let layers = self.network.layers.len();
        for index in 0..layers {
            self.layer(index, slot, &residual[index % 2], &residual[(index + 1) % 2])?;
            self.count(index, slot, counting, index)?;
        }
        self.final_norm(layers % 2, out)
    }

    fn final_norm(&self, stream: usize, out: &DeviceBuffer<u8>) -> Result<(), KernelError> {
        let norm = self.network.final_norm.values(self.weights)?;
        let (x, stats) = (&self.room.residual[stream], &self.room.final_stats);
        self.kernels.norm.forward(self.rows(), norm, self.epsilon(), x, out, None, stats)
    }

    /// One layer: the residual stream before it and after it, f32 `[t, c]`.
    pub(super) fn layer(
        &self,
        index: usize,
        slot: &LayerRoom,
        before: &DeviceBuffer<f32>,
        after: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let Self { kernels, network, weights, .. } = self;
        self.sums.map_or(Ok(()), |sums| sums.arrived(index + 1))?;
        let (layer, config, rows) = (&network.layers[index], &network.config, self.rows());
        let norm = layer.attention_norm.values(weights)?;
        let rest = self.room.rest.as_ref();
        let LayerRoom { attention_input, attention_stats, qkv, mixed, middle, .. } = slot;
        let epsilon = self.epsilon();
        kernels.norm.forward(rows, norm, epsilon, before, attention_input, rest, attention_stats)?;
        layer.qkv.apply(kernels, weights, rows, attention_input, slot.raw.as_ref().unwrap_or(qkv))?;
        self.turn(layer, slot)?;
        self.round_as_cached(slot)?;
        if let (Pruning::Hard { .. } | Pruning::Soft { .. }, Some(maps)) =
            (self.pruning, self.maps.get(index))
        {
            let input = GateInput { rows, high: attention_input, rest };
            maps.apply(kernels, input, &slot.gates)?;
            // What decides at birth is in no cache.
            let cached = network.gates.filter(|form| form.kind.votes() && self.cache != DType::F32);
            if let Some(width) = cached.map(GateForm::row) {
                kernels.counts.round(
                    rows,
                    [2 * width, width, width],
                    DeviceSlice::from(&slot.gates).bytes(),
                )?;
            }
            self.draw(index)?;
        }
        let shape = self.shape(index);
        self.call(index, slot, &shape)?.forward(&kernels.attention)?;

        let hidden = config.hidden;
        let (before, between) = (f32_rows(before, rows, hidden)?, f32_rows(middle, rows, hidden)?);
        let x = kernels.rows(mixed, rows, config.query_width())?;
        layer.output.residual(kernels, weights, x, before, between)?;
        let norm = layer.mlp_norm.values(weights)?;
        kernels.norm.forward(rows, norm, epsilon, middle, &slot.mlp_input, None, &slot.mlp_stats)?;
        layer.up.apply(kernels, weights, rows, &slot.mlp_input, &slot.up)?;
        let (up, active, count) = (&slot.up, &slot.active, rows * config.intermediate);
        match config.mlp {
            Mlp::GeluTanh => kernels.activation.gelu(GeluKind::Tanh, count, up, None, active)?,
            Mlp::Gelu => kernels.activation.gelu(GeluKind::Erf, count, up, None, active)?,
            Mlp::SwiGlu => kernels.activation.silu_mul(rows, config.intermediate, up, None, active)?,
        }
        let x = kernels.rows(active, rows, config.intermediate)?;
        layer.down.residual(kernels, weights, x, between, f32_rows(after, rows, hidden)?)
    }

    /// The shape of a layer's attention.
    pub(super) fn shape(&self, index: usize) -> GatedShape {
        let Self { network, room, .. } = self;
        gated_shape(&network.config, network.gates, index, [self.sequences, room.tokens], self.pruning)
    }

    /// A layer's attention as its kernels take it.
    pub(super) fn call<'b>(
        &self,
        index: usize,
        slot: &'b LayerRoom,
        shape: &'b GatedShape,
    ) -> Result<Call<'b>, KernelError>
    where
        'a: 'b,
    {
        let gates = self.network.layers.get(index).and_then(|layer| layer.gates.as_ref());
        let voter = match (self.pruning, gates) {
            (Pruning::Hard { .. } | Pruning::Soft { .. }, Some(places)) => {
                let row = self.network.gates.map_or(0, GateForm::row);
                let [query_gates, key_gates] = halves(&slot.gates, row)?;
                let bias = self.weights.of(&places.bias)?;
                Some(DeviceVoter { query_gates, key_gates, stride: 2 * row, bias })
            }
            _ => None,
        };
        let (rule, scratch) = match (self.pruning, self.soft) {
            (Pruning::Hard { shifts, noise, .. }, _) => {
                let noise = noise.map(|_| &self.room.noise);
                let shift = shifts.get(index).copied().unwrap_or_default();
                (DeviceRule::Hard { noise, shift }, self.room.hard.as_ref())
            }
            (Pruning::Soft { .. }, Some(SoftVotes { curve, survival })) => {
                let survival = DeviceSlice::new(survival, 2 * index..2 * (index + 1))?;
                (DeviceRule::Soft { curve, survival }, self.room.soft.as_ref())
            }
            _ => (DeviceRule::DENSE, None),
        };
        let expires_at = match self.pruning {
            Pruning::Windows { floors } => self.windows.of(floors.get(index).copied().unwrap_or_default()),
            _ => voter.map(|_| &slot.expires_at),
        };
        let trail = slot.trail.as_ref().filter(|_| matches!(rule, DeviceRule::Hard { .. }));
        let layer = Attended { qkv: &slot.qkv, expires_at, out: &slot.mixed, lse: &slot.lse, trail };
        Ok(Call { shape, rule, voter, layer, scratch })
    }

    /// Draws a layer's thresholds, where they are random: the same at every call of a pass.
    pub(super) fn draw(&self, index: usize) -> Result<(), KernelError> {
        let Pruning::Hard { noise: Some(noise), .. } = self.pruning else { return Ok(()) };
        let heads = self.network.gates.map_or(0, |form| form.heads);
        let counts = &self.kernels.counts;
        counts.noise(noise.base(index), noise.scale, self.rows() * heads, &self.room.noise)
    }

    /// Normalises (where the family does) and rotates queries and keys.
    fn turn(&self, layer: &Layer, slot: &LayerRoom) -> Result<(), KernelError> {
        let norms = layer.head_norms(self.weights)?;
        let rope = self.network.rope.as_ref();
        if norms.is_none() && rope.is_none() {
            return Ok(());
        }
        let (rows, tokens) = (self.rows(), self.room.tokens);
        self.kernels.turn.forward(rows, tokens, norms, self.epsilon(), rope, slot.raw.as_ref(), &slot.qkv)
    }

    /// Rounds keys and values as the cache of inference will, where the format of products holds more.
    fn round_as_cached(&self, slot: &LayerRoom) -> Result<(), KernelError> {
        if self.kernels.dtype != DType::F32 || self.cache == DType::F32 {
            return Ok(());
        }
        let (config, stride) = (&self.network.config, self.network.fused_width());
        let columns = [stride, config.query_width(), 2 * config.key_width()];
        self.kernels.counts.round(self.rows(), columns, (&slot.qkv).into())
    }

    /// Counts what a layer keeps.
    pub(super) fn count(
        &self,
        index: usize,
        slot: &LayerRoom,
        counting: Option<Counting<'_>>,
        place: usize,
    ) -> Result<(), KernelError> {
        let Some(Counting { table, sums }) = counting else { return Ok(()) };
        let shape = self.shape(index);
        match self.call(index, slot, &shape)?.layer.expires_at {
            None => Ok(()),
            Some(expires_at) => {
                let lanes = self.sequences * shape.gate_heads;
                self.kernels.counts.keep(lanes, expires_at, table, sums, place)
            }
        }
    }

    /// Lanes of a sequence whose lifetimes a layer counts; 0 where it keeps everything.
    pub(super) fn lanes(&self, index: usize) -> Result<usize, KernelError> {
        let shape = self.shape(index);
        let call = self.call(index, self.room.slot(index), &shape)?;
        Ok(call.layer.expires_at.map_or(0, |_| shape.gate_heads))
    }
}

/// The query gates and the key gates of rows that hold both.
pub(super) fn halves(both: &DeviceBuffer<f32>, row: usize) -> Result<[DeviceSlice<'_, f32>; 2], KernelError> {
    let end = both.len();
    Ok([DeviceSlice::new(both, 0..end.saturating_sub(row))?, DeviceSlice::new(both, row.min(end)..end)?])
}
