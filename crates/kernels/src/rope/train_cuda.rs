//! Norm and turn of queries and keys in training, on the device.

use super::RopeTable;
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, Source, Specialisation,
    kernel_struct,
};
use crate::error::{check_at_least, check_length, checked_size};
use crate::reduce::{DeviceSums, PARTS};

pub(crate) const TRAIN_SOURCE: Source = Source {
    file: "rope/train.cu",
    text: include_str!("train.cu"),
    constants: |_, _| vec![("THREADS", THREADS as usize)],
    arguments: &[Forward::LAYOUT, Backward::LAYOUT],
};

const OP: &str = "turn in training";
const THREADS: u32 = 256;
/// Warps of a block.
const WARPS: usize = 8;

/// The cos and sin of the first positions, on the device.
#[derive(Debug)]
pub struct RopeTables {
    cosines: DeviceBuffer<f32>,
    sines: DeviceBuffer<f32>,
    pairs: usize,
    tokens: usize,
}

impl RopeTables {
    /// Of positions 0 to `tokens - 1`, as [`RopeTable::angles`] makes them.
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Device, table: &RopeTable, tokens: usize) -> Result<Self, KernelError> {
        let positions: Vec<u32> = (0..tokens as u32).collect();
        let angles = table.angles(&positions);
        Ok(Self {
            cosines: DeviceBuffer::copy_of(device, "rope", &angles.cos)?,
            sines: DeviceBuffer::copy_of(device, "rope", &angles.sin)?,
            pairs: angles.pairs,
            tokens,
        })
    }
}

/// The weights of the norms of each head's queries and keys, f32 `[d]` each, or their gradients.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a> {
    /// Of queries.
    pub query: DeviceSlice<'a, f32>,
    /// Of keys.
    pub key: DeviceSlice<'a, f32>,
}

/// What happens to queries and keys between their product and attention.
#[derive(Debug, Clone)]
pub struct TrainTurn {
    forward: Function,
    backward: Function,
    sums: DeviceSums,
    specialisation: Specialisation,
}

kernel_struct! {
    struct Forward as Turn {
        from: u64,
        to: u64,
        query_weight: u64,
        key_weight: u64,
        cosines: u64,
        sines: u64,
        rows: u32,
        tokens: u32,
        pairs: u32,
        epsilon: f32,
    }
}

kernel_struct! {
    struct Backward as TurnBack {
        from: u64,
        d: u64,
        query_weight: u64,
        key_weight: u64,
        cosines: u64,
        sines: u64,
        partials: u64,
        rows: u32,
        tokens: u32,
        pairs: u32,
        epsilon: f32,
    }
}

impl TrainTurn {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &TRAIN_SOURCE, specialisation)?;
        Ok(Self {
            forward: module.function("turn_heads", 0)?,
            backward: module.function("turn_heads_back", 0)?,
            sums: DeviceSums::new(device, specialisation)?,
            specialisation: *specialisation,
        })
    }

    /// Numbers that [`TrainTurn::backward`] needs.
    #[must_use]
    pub fn scratch(&self) -> usize {
        2 * PARTS * self.specialisation.head_dim
    }

    /// Normalises each head of queries and keys, where `norms` are given, and turns them by `rope`, where that is given, in
    /// rows `[q | k | v]` of sequences of T = `tokens`: W `[rows, (h + 2g) d]`, from `from` to `to`, or in place without
    /// `from`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn forward(
        &self,
        rows: usize,
        tokens: usize,
        norms: Option<HeadNorms<'_>>,
        epsilon: f32,
        rope: Option<&RopeTables>,
        from: Option<&DeviceBuffer<u8>>,
        to: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let from = from.unwrap_or(to);
        self.check(rows, tokens, norms, rope, [from, to])?;
        let (cosines, sines, pairs) = angles(rope);
        let arguments = Forward {
            from: from.pointer(),
            to: to.pointer(),
            query_weight: norms.map_or(0, |norms| norms.query.pointer()),
            key_weight: norms.map_or(0, |norms| norms.key.pointer()),
            cosines,
            sines,
            rows: rows as u32,
            tokens: tokens as u32,
            pairs,
            epsilon,
        };
        let shape = &self.specialisation;
        let values = if from.pointer() == to.pointer() { 0 } else { shape.kv_heads };
        let heads = rows * (shape.query_heads + shape.kv_heads + values);
        // SAFETY: the layout of `Turn`; lengths as just checked.
        unsafe { self.forward.launch(Grid::new(heads.div_ceil(WARPS), THREADS), &arguments) }?;
        Ok(())
    }

    /// From `from` of [`TrainTurn::forward`] (read only with norms) and the gradients `d` of its result, W
    /// `[rows, (h + 2g) d]`: `d` becomes the gradient of `from`, and the weights' are added to `gradients`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn backward(
        &self,
        rows: usize,
        tokens: usize,
        norms: Option<(HeadNorms<'_>, HeadNorms<'_>)>,
        epsilon: f32,
        rope: Option<&RopeTables>,
        from: &DeviceBuffer<u8>,
        d: &DeviceBuffer<u8>,
        scratch: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let weights = norms.map(|(weights, _)| weights);
        self.check(rows, tokens, weights, rope, [from, d])?;
        self.check(rows, tokens, norms.map(|(_, gradients)| gradients), rope, [from, d])?;
        check_at_least(OP, "scratch", self.scratch(), scratch.len())?;
        let (cosines, sines, pairs) = angles(rope);
        let arguments = Backward {
            from: from.pointer(),
            d: d.pointer(),
            query_weight: weights.map_or(0, |norms| norms.query.pointer()),
            key_weight: weights.map_or(0, |norms| norms.key.pointer()),
            cosines,
            sines,
            partials: scratch.pointer(),
            rows: rows as u32,
            tokens: tokens as u32,
            pairs,
            epsilon,
        };
        let (shape, width) = (&self.specialisation, self.specialisation.head_dim);
        let blocks = (rows * (shape.query_heads + shape.kv_heads)).div_ceil(WARPS);
        // Without sums a block per eight heads; with them no more partial sums than there is room for.
        let blocks = if norms.is_some() { blocks.min(PARTS) } else { blocks };
        // SAFETY: the layout of `TurnBack`; lengths as just checked.
        unsafe { self.backward.launch(Grid::new(blocks, THREADS), &arguments) }?;
        if let Some((_, gradients)) = norms {
            let of = |first| DeviceSlice::new(scratch, first..scratch.len());
            self.sums.add_partials(of(0)?, blocks, 2 * width, gradients.query)?;
            self.sums.add_partials(of(width)?, blocks, 2 * width, gradients.key)?;
        }
        Ok(())
    }

    fn check(
        &self,
        rows: usize,
        tokens: usize,
        norms: Option<HeadNorms<'_>>,
        rope: Option<&RopeTables>,
        all: [&DeviceBuffer<u8>; 2],
    ) -> Result<(), KernelError> {
        let shape = &self.specialisation;
        let fused = (shape.query_heads + 2 * shape.kv_heads) * shape.head_dim;
        for buffer in all {
            check_at_least(
                OP,
                "qkv",
                checked_size(OP, &[rows, fused, shape.weights.bytes()])?,
                buffer.len(),
            )?;
        }
        if let Some(norms) = norms {
            check_length(OP, "the queries' weight", shape.head_dim, norms.query.len())?;
            check_length(OP, "the keys' weight", shape.head_dim, norms.key.len())?;
        }
        if let Some(rope) = rope {
            check_at_least(OP, "positions", tokens, rope.tokens)?;
            check_at_least(OP, "head_dim", 2 * rope.pairs, shape.head_dim)?;
        }
        check_at_least(OP, "tokens", 1, tokens)
    }
}

fn angles(rope: Option<&RopeTables>) -> (u64, u64, u32) {
    rope.map_or((0, 0, 0), |rope| (rope.cosines.pointer(), rope.sines.pointer(), rope.pairs as u32))
}
