//! Launches of the kernels in `expected.cu`.

use super::cuda::OP;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceSpan, Function, Grid, LaneTables, Module, Source,
    Specialisation, kernel_struct,
};
use crate::error::check_at_least;
use crate::rope::Turning;
use crate::{KernelError, PAGE_ENTRIES};

pub(crate) const SOURCE: Source = Source {
    file: "ranking/expected.cu",
    text: include_str!("expected.cu"),
    constants: |_, _| vec![("THREADS", THREADS), ("PARTS", PARTS)],
    arguments: &[ExpectedArgs::LAYOUT],
};

const THREADS: usize = 256;
/// Parts that the queries of a head are summed in.
const PARTS: usize = 32;
/// Rows of a covariance that a block has.
const SLAB: usize = 16;

/// How a layer's queries were turned by their positions, and how those to come will be.
#[derive(Debug, Clone, Copy)]
pub struct Turns<'a> {
    /// By the position of each token.
    pub turning: Turning<'a>,
    /// The mean rotation that queries to come will have, `[sequences, pairs]`; where they are expected it is there.
    pub coming: Option<&'a DeviceBuffer<[f32; 2]>>,
    /// Which of the sequences it is.
    pub sequence: usize,
}

/// Which queries count, and what their expected weight is worth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) sinks: u32,
    pub(super) covariance: bool,
    pub(super) value_norm: bool,
    pub(super) epsilon: f32,
}

/// The kernels, and what lies between them.
#[derive(Debug)]
pub(super) struct Expected {
    kernels: [Function; 6],
    sums: DeviceBuffer<f64>,
    means: DeviceBuffer<f32>,
    spreads: DeviceBuffer<f32>,
    logits: DeviceBuffer<f32>,
    firsts: DeviceBuffer<u32>,
    specialisation: Specialisation,
}

kernel_struct! {
    struct ExpectedArgs as ExpectedArgs {
        lanes: LaneTables,
        qkv: u64,
        angles: u64,
        coming: u64,
        sums: u64,
        means: u64,
        spreads: u64,
        logits: u64,
        firsts: u64,
        slot: u32,
        layer: u32,
        first_row: u32,
        queries: u32,
        first_position: u32,
        next: u32,
        pairs: u32,
        stride: u32,
        sinks: u32,
        scale: f32,
        unscale: f32,
        epsilon: f32,
        covariance: u32,
        value_norm: u32,
    }
}

impl Expected {
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        positions: usize,
    ) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, specialisation)?;
        let names = [
            "expected_sums",
            "expected_spreads",
            "expected_turn",
            "expected_sinks",
            "expected_logits",
            "expected_scores",
        ];
        let kernels: Vec<Function> =
            names.iter().map(|name| module.function(name, 0)).collect::<Result<_, _>>()?;
        let Ok(kernels) = <[Function; 6]>::try_from(kernels) else {
            let (expected, got) = ("six kernels".to_owned(), "another number".to_owned());
            return Err(KernelError::Invalid { op: OP, expected, got });
        };
        let (heads, d, what) =
            (specialisation.query_heads, specialisation.head_dim, "what queries are expected");
        Ok(Self {
            kernels,
            sums: DeviceBuffer::uninitialized(device, what, PARTS * heads * d)?,
            means: DeviceBuffer::uninitialized(device, what, heads * d)?,
            spreads: DeviceBuffer::uninitialized(device, what, heads * d * d)?,
            logits: DeviceBuffer::uninitialized(device, what, heads * positions)?,
            firsts: DeviceBuffer::uninitialized(device, what, specialisation.kv_heads)?,
            specialisation: *specialisation,
        })
    }

    /// The scores of a span's sequence in one layer; the caller has checked slot, layer and rows.
    pub(super) fn score(
        &self,
        lanes: &DeviceLanes,
        span: &DeviceSpan,
        (layer, scale): (usize, f32),
        qkv: &DeviceBuffer<u8>,
        rule: Rule,
        turns: Option<Turns<'_>>,
    ) -> Result<(), KernelError> {
        let Specialisation { query_heads, kv_heads, head_dim, .. } = self.specialisation;
        let next = span.first_position + span.queries;
        let stride = next as usize;
        check_at_least(OP, "logits", query_heads * stride, self.logits.len())?;
        // In a later turn of a conversation the queries of earlier ones are gone.
        let queries = span.queries.min(next.saturating_sub(rule.sinks));
        let (mut angles, mut coming, mut pairs, mut unscale) = (0, 0, 0, 1.0);
        if let Some(Turns { turning, coming: rotations, sequence }) = turns {
            pairs = turning.pairs;
            turning.check(OP, stride, head_dim)?;
            check_at_least(
                OP,
                "rotations to come",
                (sequence + 1) * pairs,
                rotations.map_or(0, DeviceBuffer::len),
            )?;
            angles = turning.table.pointer();
            let first = rotations.map_or(0, DeviceBuffer::pointer);
            coming = first + (sequence * pairs * size_of::<[f32; 2]>()) as u64;
            unscale = 1.0 / (turning.scaling * turning.scaling);
        }
        let skipped = span.queries - queries;
        let argument = ExpectedArgs {
            lanes: lanes.tables(),
            qkv: qkv.pointer(),
            angles,
            coming,
            sums: self.sums.pointer(),
            means: self.means.pointer(),
            spreads: self.spreads.pointer(),
            logits: self.logits.pointer(),
            firsts: self.firsts.pointer(),
            slot: span.slot,
            layer: layer as u32,
            first_row: span.first_row + skipped,
            queries,
            first_position: span.first_position + skipped,
            next,
            pairs: pairs as u32,
            stride: stride as u32,
            sinks: rule.sinks,
            scale,
            unscale,
            epsilon: rule.epsilon,
            covariance: u32::from(rule.covariance),
            value_norm: u32::from(rule.value_norm),
        };
        let heads = Grid::new(query_heads, THREADS as u32);
        let grids = [
            heads.by(PARTS),
            heads.by(head_dim.div_ceil(SLAB)),
            heads,
            Grid::new(kv_heads, THREADS as u32),
            Grid::new(stride.div_ceil(PAGE_ENTRIES), THREADS as u32).by(query_heads),
            Grid::new(kv_heads, THREADS as u32),
        ];
        for (kernel, grid) in self.kernels.iter().zip(grids) {
            // SAFETY: the argument is the kernel's; its slot, layer and rows exist, and its buffers are as large as just
            // checked: a lane has no more entries than its sequence has tokens.
            unsafe { kernel.launch(grid, &argument) }?;
        }
        Ok(())
    }
}
