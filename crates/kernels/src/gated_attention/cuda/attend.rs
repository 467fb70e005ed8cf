//! The kernels of attention: forward, and the gradients of queries, keys and values.

use super::gates::Call;
use super::scratch::{GateScratch, Strip};
use super::{ATTEND, Attended, AttendedBack, BACK_KEYS, DeviceRule, OP, SIDE, THREADS, check_shape, window};
use crate::KernelError;
use crate::cuda::{Device, DeviceBuffer, Function, Grid, Module, Specialisation, kernel_struct};
use crate::error::{check_at_least, checked_size};
use crate::gated_attention::GatedShape;

/// Bytes that rows of a tile may have to be moved by, so that they begin where the chip wants them.
const ATOM: u32 = 1024;

#[derive(Debug, Clone)]
pub(super) struct Attention {
    attend: Function,
    attend_soft: Function,
    deltas: Function,
    back_queries: Function,
    back_queries_soft: Function,
    back_keys: Function,
    back_keys_hard: Function,
    back_keys_soft: Function,
    specialisation: Specialisation,
}

kernel_struct! {
    pub(super) struct Shape as Shape {
        tokens: u32,
        groups: u32,
        window: u32,
        scale: f32,
        first_tile: u32,
        tiles: u32,
        ends: u64,
        qkv: u64,
        logs: u64,
        turned_logs: u64,
    }
}

kernel_struct! {
    pub(super) struct Attend as Attend {
        shape: Shape,
        out: u64,
        lse: u64,
    }
}

kernel_struct! {
    pub(super) struct Deltas as Deltas {
        out: u64,
        dout: u64,
        delta: u64,
        rows: u32,
        tokens: u32,
    }
}

kernel_struct! {
    pub(super) struct BackQueries as BackQueries {
        shape: Shape,
        dout: u64,
        lse: u64,
        delta: u64,
        dqkv: u64,
    }
}

kernel_struct! {
    pub(super) struct BackKeys as BackKeys {
        shape: Shape,
        dout: u64,
        lse: u64,
        delta: u64,
        dqkv: u64,
        carried: u64,
        worth: u64,
        fades_at: u64,
    }
}

impl Attention {
    pub(super) fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let attend = Module::load(device, &ATTEND, specialisation)?;
        let keys = Module::load(device, &BACK_KEYS, specialisation)?;
        let element = specialisation.weights.bytes();
        let wide = specialisation.head_dim.next_multiple_of(16) * element;
        // GROUPED of the kernel files needs no padding.
        let grouped =
            device.facts().capability == (9, 0) && element == 2 && specialisation.head_dim.is_multiple_of(64);
        let tile = (SIDE * (wide + if grouped { 0 } else { 16 })) as u32;
        let stages = if element == 2 && wide <= 512 { 2 } else { 1 };
        let (forward, back) = ((1 + 2 * stages) * tile + ATOM, (2 + 2 * stages) * tile + ATOM);
        // WORTH_BYTES of the kernel file, and the logarithms of a tile.
        let shared = specialisation.query_heads > specialisation.kv_heads;
        let worth = if shared { (SIDE * SIDE * 4) as u32 } else { 0 };
        let logs = (SIDE * SIDE * element) as u32;
        Ok(Self {
            attend: attend.function("attend", forward)?,
            attend_soft: attend.function("attend_soft", forward)?,
            deltas: attend.function("deltas", 0)?,
            back_queries: attend.function("back_queries", back)?,
            back_queries_soft: attend.function("back_queries_soft", back)?,
            back_keys: keys.function("back_keys", back)?,
            back_keys_hard: keys.function("back_keys_hard", back + worth)?,
            back_keys_soft: keys.function("back_keys_soft", back + worth + logs)?,
            specialisation: *specialisation,
        })
    }

    pub(super) fn side_width(&self) -> usize {
        self.specialisation.side_width
    }

    /// Refuses a shape that is not the kernels', and operands of other lengths.
    pub(super) fn check(&self, shape: &GatedShape, layer: &Attended<'_>) -> Result<(), KernelError> {
        check_shape(&self.specialisation, shape)?;
        check_at_least(OP, "qkv", self.fused(shape)?, layer.qkv.len())?;
        check_at_least(OP, "out", self.mixed(shape)?, layer.out.len())?;
        check_at_least(OP, "lse", self.queries(shape)?, layer.lse.len())?;
        if let Some(expires_at) = layer.expires_at {
            let wanted = checked_size(OP, &[shape.sequences, shape.gate_heads, shape.tokens])?;
            check_at_least(OP, "expires_at", wanted, expires_at.len())?;
        }
        Ok(())
    }

    pub(super) fn check_back(&self, shape: &GatedShape, back: &AttendedBack<'_>) -> Result<(), KernelError> {
        check_at_least(OP, "dout", self.mixed(shape)?, back.dout.len())?;
        check_at_least(OP, "delta", self.queries(shape)?, back.delta.len())?;
        check_at_least(OP, "dqkv", self.fused(shape)?, back.dqkv.len())
    }

    /// The output of a strip of queries; `soft` holds what they see of keys.
    pub(super) fn forward(
        &self,
        shape: &GatedShape,
        layer: &Attended<'_>,
        soft: Option<&GateScratch>,
        strip: Strip,
    ) -> Result<(), KernelError> {
        let arguments = Attend {
            shape: Self::shape(shape, layer, soft, strip),
            out: layer.out.pointer(),
            lse: layer.lse.pointer(),
        };
        let function = if soft.is_some() { &self.attend_soft } else { &self.attend };
        let grid = grid(shape, strip.range(shape).len(), self.specialisation.query_heads);
        // SAFETY: the layout of `Attend`; lengths as `check` saw them.
        unsafe { function.launch(grid, &arguments) }?;
        Ok(())
    }

    pub(super) fn deltas(
        &self,
        shape: &GatedShape,
        layer: &Attended<'_>,
        back: &AttendedBack<'_>,
    ) -> Result<(), KernelError> {
        let rows = shape.sequences * shape.tokens;
        let Specialisation { query_heads, head_dim, weights, .. } = self.specialisation;
        let arguments = Deltas {
            out: layer.out.pointer(),
            dout: back.dout.pointer(),
            delta: back.delta.pointer(),
            rows: rows as u32,
            tokens: shape.tokens as u32,
        };
        // HEAD_LANES of the kernel file.
        let chunks = head_dim * weights.bytes() / 16;
        let whole =
            (head_dim * weights.bytes()).is_multiple_of(16) && chunks.is_power_of_two() && chunks <= 32;
        let lanes = if whole { chunks } else { 32 };
        let blocks = (rows * query_heads * lanes).div_ceil(THREADS as usize);
        // SAFETY: the layout of `Deltas`; lengths as the checks saw them.
        unsafe { self.deltas.launch(Grid::new(blocks, THREADS), &arguments) }?;
        Ok(())
    }

    /// The gradients of a strip of queries, behind `deltas`.
    pub(super) fn back_queries(
        &self,
        shape: &GatedShape,
        layer: &Attended<'_>,
        back: &AttendedBack<'_>,
        soft: Option<&Call<'_>>,
        strip: Strip,
    ) -> Result<(), KernelError> {
        let arguments = Self::back(shape, layer, back, soft.map(|call| call.scratch), strip);
        let function = if soft.is_some() { &self.back_queries_soft } else { &self.back_queries };
        let grid = grid(shape, strip.range(shape).len(), self.specialisation.query_heads);
        // SAFETY: the layout of `BackQueries`; lengths as the checks saw them.
        unsafe { function.launch(grid, &arguments) }?;
        Ok(())
    }

    /// A strip's part in the gradients of keys and values, and with gates what its pairs are worth, behind `deltas`.
    /// Strips come from the last to the first.
    pub(super) fn back_keys(
        &self,
        shape: &GatedShape,
        layer: &Attended<'_>,
        back: &AttendedBack<'_>,
        gates: Option<&Call<'_>>,
        strip: Strip,
    ) -> Result<(), KernelError> {
        let (function, soft) = match gates.map(|call| call.rule) {
            None => (&self.back_keys, None),
            Some(DeviceRule::Hard { .. }) => (&self.back_keys_hard, None),
            Some(DeviceRule::Soft { .. }) => (&self.back_keys_soft, gates.map(|call| call.scratch)),
        };
        let BackQueries { shape: own, dout, lse, delta, dqkv } = Self::back(shape, layer, back, soft, strip);
        let arguments = BackKeys {
            shape: own,
            dout,
            lse,
            delta,
            dqkv,
            carried: gates.map_or(0, |call| call.scratch.carried_keys.pointer()),
            worth: gates.map_or(0, |call| call.scratch.worth.pointer()),
            fades_at: gates.map_or(0, |call| call.trail()[1]),
        };
        let grid = grid(shape, strip.range(shape).end, self.specialisation.kv_heads);
        // SAFETY: the layout of `BackKeys`; lengths as the checks saw them.
        unsafe { function.launch(grid, &arguments) }?;
        Ok(())
    }

    fn back(
        shape: &GatedShape,
        layer: &Attended<'_>,
        back: &AttendedBack<'_>,
        soft: Option<&GateScratch>,
        strip: Strip,
    ) -> BackQueries {
        BackQueries {
            shape: Self::shape(shape, layer, soft, strip),
            dout: back.dout.pointer(),
            lse: layer.lse.pointer(),
            delta: back.delta.pointer(),
            dqkv: back.dqkv.pointer(),
        }
    }

    fn shape(shape: &GatedShape, layer: &Attended<'_>, soft: Option<&GateScratch>, strip: Strip) -> Shape {
        let lifetimes = layer.expires_at.map_or(0, DeviceBuffer::pointer);
        Shape {
            tokens: shape.tokens as u32,
            groups: shape.gate_heads as u32,
            window: window(shape),
            scale: shape.attention.scale,
            first_tile: strip.first as u32,
            tiles: strip.tiles as u32,
            ends: soft.map_or(lifetimes, |scratch| scratch.ends.pointer()),
            qkv: layer.qkv.pointer(),
            logs: soft.map_or(0, |scratch| scratch.logs.pointer()),
            turned_logs: soft.map_or(0, |scratch| scratch.turned_logs.pointer()),
        }
    }

    fn fused(&self, shape: &GatedShape) -> Result<usize, KernelError> {
        let Specialisation { query_heads, kv_heads, head_dim, weights, .. } = self.specialisation;
        let width = (query_heads + 2 * kv_heads) * head_dim * weights.bytes();
        checked_size(OP, &[shape.sequences, shape.tokens, width])
    }

    fn mixed(&self, shape: &GatedShape) -> Result<usize, KernelError> {
        let Specialisation { query_heads, head_dim, weights, .. } = self.specialisation;
        checked_size(OP, &[shape.sequences, shape.tokens, query_heads * head_dim, weights.bytes()])
    }

    fn queries(&self, shape: &GatedShape) -> Result<usize, KernelError> {
        checked_size(OP, &[shape.sequences, shape.tokens, self.specialisation.query_heads])
    }
}

fn grid(shape: &GatedShape, tiles: usize, heads: usize) -> Grid {
    Grid {
        blocks: [heads as u32, shape.sequences as u32, tiles as u32],
        threads: THREADS,
        early: false,
        cluster: 1,
    }
}
