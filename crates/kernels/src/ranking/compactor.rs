//! Launches of the kernels in `leverage.cu`, `neighbours.cu` and `compactor.cu`.

use super::cuda::OP;
use super::expected::Turns;
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceSpan, Function, Grid, LaneTables, Module, Source,
    Specialisation, kernel_struct,
};
use crate::error::check_at_least;

pub(crate) const SOURCE: Source = Source {
    file: "ranking/compactor.cu",
    text: concat!(
        include_str!("../gated_attention/cuda/fragments.cuh"),
        include_str!("scores.cuh"),
        include_str!("lane.cuh"),
        include_str!("order.cuh"),
        include_str!("noise.cuh"),
        include_str!("compactor.cuh"),
        include_str!("leverage.cu"),
        include_str!("neighbours.cu"),
        include_str!("compactor.cu")
    ),
    constants: |_, _| {
        vec![
            ("THREADS", THREADS),
            ("SIDE", SIDE),
            ("PARTS", PARTS),
            ("MOST_COLUMNS", MOST_COLUMNS as usize),
            ("MANY", MANY),
        ]
    },
    arguments: &[CompactorArgs::LAYOUT],
};

/// Most columns of a sketch.
pub(super) const MOST_COLUMNS: u32 = 128;
const THREADS: usize = 128;
/// Threads of the only block that goes over all heads.
const MANY: usize = 1024;
/// Ranks of a tile of queries or keys.
const SIDE: usize = 64;
/// Ranks of a tile of keys that are sketched.
const TILE: usize = 16;
/// Parts that the keys of a head are summed in.
const PARTS: usize = 32;

/// How keys are judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) first: u32,
    pub(super) last: u32,
    pub(super) chunk: u32,
    pub(super) columns: u32,
    pub(super) blending: f32,
    pub(super) seed: u64,
}

/// The kernels, and what lies between them: of one layer of one sequence at a time.
#[derive(Debug)]
pub(super) struct Compactor {
    rule: Rule,
    kernels: Kernels,
    order: DeviceBuffer<u32>,
    counts: DeviceBuffer<u32>,
    sketch: DeviceBuffer<f32>,
    sums: DeviceBuffer<f64>,
    grams: DeviceBuffer<f64>,
    factors: DeviceBuffer<f64>,
    rows: DeviceBuffer<[f32; 2]>,
    leverages: DeviceBuffer<f32>,
    masses: DeviceBuffer<f32>,
    attended: DeviceBuffer<f32>,
    moments: DeviceBuffer<f64>,
    specialisation: Specialisation,
    positions: usize,
}

#[derive(Debug)]
struct Kernels {
    order: Function,
    sums: Function,
    grams: Function,
    factors: Function,
    leverages: Function,
    rows: Function,
    columns: Function,
    attended: Function,
    moments: Function,
    scores: Function,
}

kernel_struct! {
    struct CompactorArgs as CompactorArgs {
        lanes: LaneTables,
        qkv: u64,
        angles: u64,
        order: u64,
        counts: u64,
        sketch: u64,
        sums: u64,
        grams: u64,
        factors: u64,
        rows: u64,
        leverages: u64,
        masses: u64,
        attended: u64,
        moments: u64,
        slot: u32,
        layer: u32,
        first_row: u32,
        queries: u32,
        first_position: u32,
        next: u32,
        pairs: u32,
        stride: u32,
        columns: u32,
        first: u32,
        last: u32,
        chunk: u32,
        unscale: f32,
        blending: f32,
        seed: u64,
    }
}

impl Compactor {
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        positions: usize,
        rule: Rule,
    ) -> Result<Self, KernelError> {
        if !(1..=MOST_COLUMNS).contains(&rule.columns) || rule.chunk == 0 {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!(
                    "a sketch of 1 to {MOST_COLUMNS} columns, and chunks of at least one token"
                ),
                got: format!("{} columns, chunks of {}", rule.columns, rule.chunk),
            });
        }
        let Specialisation { query_heads, kv_heads, head_dim: d, cache, .. } = *specialisation;
        let module = Module::load(device, &SOURCE, specialisation)?;
        let tile = (2 * SIDE * (d.next_multiple_of(16) + 16 / cache.bytes()) * cache.bytes()) as u32;
        let kernels = Kernels {
            order: module.function("compactor_order", 0)?,
            sums: module.function("compactor_sums", 0)?,
            grams: module.function("compactor_grams", 0)?,
            factors: module.function("compactor_factors", 0)?,
            leverages: module.function("compactor_leverages", 0)?,
            rows: module.function("compactor_rows", tile)?,
            columns: module.function("compactor_columns", tile)?,
            attended: module.function("compactor_attended", 0)?,
            moments: module.function("compactor_moments", 0)?,
            scores: module.function("compactor_scores", 0)?,
        };
        let (k, what) = (rule.columns as usize, "what keys are judged by");
        let floats = |len| DeviceBuffer::<f32>::uninitialized(device, what, len);
        let doubles = |len| DeviceBuffer::<f64>::uninitialized(device, what, len);
        Ok(Self {
            rule,
            kernels,
            order: DeviceBuffer::uninitialized(device, what, kv_heads * positions)?,
            counts: DeviceBuffer::uninitialized(device, what, kv_heads)?,
            sketch: floats(kv_heads * k * d)?,
            sums: doubles(PARTS * kv_heads * d)?,
            grams: doubles(PARTS * kv_heads * k * k)?,
            factors: doubles(kv_heads * k * k)?,
            rows: DeviceBuffer::uninitialized(device, what, query_heads * positions)?,
            leverages: floats(kv_heads * positions)?,
            masses: floats(query_heads * positions)?,
            attended: floats(kv_heads * positions)?,
            moments: doubles(4)?,
            specialisation: *specialisation,
            positions,
        })
    }

    /// The scores of a span's sequence in one layer; the caller has checked slot, layer and rows.
    pub(super) fn score(
        &self,
        lanes: &DeviceLanes,
        span: &DeviceSpan,
        layer: usize,
        qkv: &DeviceBuffer<u8>,
        turns: Option<Turns<'_>>,
    ) -> Result<(), KernelError> {
        let Specialisation { query_heads, kv_heads, head_dim, .. } = self.specialisation;
        let next = span.first_position + span.queries;
        let tokens = next as usize;
        check_at_least(OP, "tokens", tokens, self.positions)?;
        let (mut angles, mut pairs, mut unscale) = (0, 0, 1.0);
        if let Some(Turns { turning, .. }) = turns {
            turning.check(OP, tokens, head_dim)?;
            (angles, pairs) = (turning.table.pointer(), turning.pairs);
            unscale = 1.0 / (turning.scaling * turning.scaling);
        }
        let Rule { first, last, chunk, columns, blending, seed } = self.rule;
        let argument = CompactorArgs {
            lanes: lanes.tables(),
            qkv: qkv.pointer(),
            angles,
            order: self.order.pointer(),
            counts: self.counts.pointer(),
            sketch: self.sketch.pointer(),
            sums: self.sums.pointer(),
            grams: self.grams.pointer(),
            factors: self.factors.pointer(),
            rows: self.rows.pointer(),
            leverages: self.leverages.pointer(),
            masses: self.masses.pointer(),
            attended: self.attended.pointer(),
            moments: self.moments.pointer(),
            slot: span.slot,
            layer: layer as u32,
            first_row: span.first_row,
            queries: span.queries,
            first_position: span.first_position,
            next,
            pairs: pairs as u32,
            stride: next,
            columns,
            first,
            last,
            chunk,
            unscale,
            blending,
            seed,
        };
        let heads = Grid::new(kv_heads, THREADS as u32);
        let tiles = |side: usize| Grid::new(tokens.div_ceil(side), THREADS as u32).by(kv_heads);
        // Of each chunk as many tiles; there are no more chunks than tokens.
        let of_chunk = (chunk as usize).min(tokens).div_ceil(SIDE);
        let chunks = Grid::new(tokens.div_ceil(chunk as usize) * of_chunk, THREADS as u32).by(query_heads);
        let kernels = &self.kernels;
        let launches = [
            (&kernels.order, heads),
            (&kernels.sums, heads.by(PARTS)),
            (&kernels.grams, heads.by(PARTS)),
            (&kernels.factors, heads),
            (&kernels.leverages, tiles(TILE)),
            (&kernels.rows, chunks),
            (&kernels.columns, chunks),
            (&kernels.attended, tiles(THREADS)),
            (&kernels.moments, Grid::new(1, MANY as u32)),
            (&kernels.scores, tiles(THREADS)),
        ];
        for (kernel, grid) in launches {
            // SAFETY: the argument is the kernel's; its slot, layer and rows exist, and its buffers are as large as just
            // checked: a lane has no more entries than its sequence has tokens.
            unsafe { kernel.launch(grid, &argument) }?;
        }
        Ok(())
    }
}
