//! Attention on the device, over lanes as they lie there.
//!
//! `decode.cu` is for one query per sequence, `prefill.cu` for many, both with tensor cores and caches of 16 bits or of codes;
//! `prefill_groups.cu` takes the place of the latter where warp groups multiply. `rows.cu` is for all other formats and head widths.

use super::device_plan::{DecodePlan, GroupsPlan, MOST_SPANS, PrefillPlan, ratio};
use crate::cuda::{
    Argument, CudaError, Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Function, Grid,
    LaneTables, Module, Source, Specialisation, StepSize, kernel_struct,
};
use crate::{KernelError, PAGE_ENTRIES};

/// One query per sequence.
pub const DECODE: Source = Source {
    file: "attention/decode.cu",
    text: concat!(
        include_str!("tiles.cuh"),
        include_str!("unit.cuh"),
        include_str!("../cuda/line.cuh"),
        include_str!("codes.cuh"),
        include_str!("coded.cuh"),
        include_str!("feed.cuh"),
        include_str!("parts.cuh"),
        include_str!("decode.cu")
    ),
    constants: |capability, specialisation| DecodePlan::new(capability, specialisation).constants(),
    arguments: &[DecodeArguments::LAYOUT],
};
/// Many queries.
pub const PREFILL: Source = Source {
    file: "attention/prefill.cu",
    text: concat!(
        include_str!("tiles.cuh"),
        include_str!("codes.cuh"),
        include_str!("listed.cuh"),
        include_str!("prefill.cu")
    ),
    constants: |capability, specialisation| PrefillPlan::new(capability, specialisation).constants(),
    arguments: &[PrefillArguments::LAYOUT],
};
/// Many queries, on chips whose warp groups multiply.
pub const PREFILL_GROUPS: Source = Source {
    file: "attention/prefill_groups.cu",
    text: concat!(
        include_str!("tiles.cuh"),
        include_str!("codes.cuh"),
        include_str!("listed.cuh"),
        include_str!("../cuda/signals.cuh"),
        include_str!("../cuda/wgmma.cuh"),
        include_str!("prefill_groups.cu")
    ),
    constants: |_, specialisation| GroupsPlan::new(specialisation).constants(),
    arguments: &[PrefillArguments::LAYOUT],
};
/// Any queries, any format.
pub const ROWS: Source = Source {
    file: "attention/rows.cu",
    text: include_str!("rows.cu"),
    constants: |_, _| vec![("WARPS", ROWS_WARPS)],
    arguments: &[RowsArguments::LAYOUT],
};

const OP: &str = "attention on the device";
/// Warps of a block of `rows.cu`.
const ROWS_WARPS: usize = 4;

/// Attention of one model over one kind of lanes.
#[derive(Debug)]
pub struct DeviceAttention {
    specialisation: Specialisation,
    max_spans: usize,
    decode: Option<Decode>,
    prefill: Option<Prefill>,
    rows: Function,
}

/// What a decode step's attention tells of one layer, where somebody wants to know: every score, and each query head's largest
/// and sum. With them, a probability is `2^(score - largest) / sum`.
#[derive(Debug)]
pub struct ToldScores {
    /// In log2, f32 `[pages * heads of a lane][32][query heads of a KV head]`: the pages of the step's lanes one after the other,
    /// for each lane head by head; -infinity for what is not seen.
    pub scores: DeviceBuffer<f32>,
    /// `[spans * KV heads][query heads of a KV head]`
    pub stats: DeviceBuffer<[f32; 2]>,
}

impl ToldScores {
    /// Room for lanes of at most `pages` pages in a layer, all together, and `max_spans` sequences.
    ///
    /// # Errors
    /// No such memory on the device.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        pages: usize,
        max_spans: usize,
    ) -> Result<Self, CudaError> {
        let (heads, what) = (specialisation.query_heads, "the scores of a decode step");
        let entries = pages * PAGE_ENTRIES;
        let scores = DeviceBuffer::uninitialized(device, what, entries * heads / specialisation.groups)?;
        Ok(Self { scores, stats: DeviceBuffer::uninitialized(device, what, max_spans * heads)? })
    }
}

/// `decode.cu` and the room for parts of units that several warps or blocks own.
#[derive(Debug)]
struct Decode {
    function: Function,
    grid: Grid,
    parts: DeviceBuffer<f32>,
    part_stats: DeviceBuffer<f32>,
    warp_parts: DeviceBuffer<f32>,
}

/// `prefill_groups.cu` or `prefill.cu`.
#[derive(Debug)]
struct Prefill {
    function: Function,
    /// Of a block.
    queries: usize,
    threads: u32,
}

impl DeviceAttention {
    /// Attention for steps of at most `max_spans` sequences; takes the memory for partial results.
    ///
    /// # Errors
    /// Heads wider than 256, query heads that are no multiple of the KV heads, no memory, no compiler.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        max_spans: usize,
    ) -> Result<Self, KernelError> {
        let mut attention = Self::slow(device, specialisation, max_spans)?;
        if DecodePlan::serves(specialisation) {
            attention.decode = Some(Decode::new(device, specialisation, max_spans)?);
        }
        let capability = device.facts().capability;
        let (groups, plan) = (GroupsPlan::new(specialisation), PrefillPlan::new(capability, specialisation));
        attention.prefill = if groups.serves(capability, specialisation) {
            let (rows, threads, shared) = (groups.rows(), groups.threads(), groups.shared());
            Some(Prefill::new(device, specialisation, &PREFILL_GROUPS, (rows, threads, shared))?)
        } else if plan.serves(specialisation) {
            let (rows, threads, shared) = (plan.rows(), plan.threads(), plan.shared());
            Some(Prefill::new(device, specialisation, &PREFILL, (rows, threads, shared))?)
        } else {
            None
        };
        Ok(attention)
    }

    /// The same with `rows.cu` for everything: the slow twin.
    ///
    /// # Errors
    /// As [`DeviceAttention::new`].
    pub fn slow(
        device: &Device,
        specialisation: &Specialisation,
        max_spans: usize,
    ) -> Result<Self, KernelError> {
        let Specialisation { query_heads, kv_heads, groups, head_dim, .. } = *specialisation;
        if kv_heads == 0 || query_heads == 0 || !query_heads.is_multiple_of(kv_heads) {
            return Err(invalid(
                "query heads that are a multiple of the KV heads".to_owned(),
                format!("{query_heads} query heads, {kv_heads} KV heads"),
            ));
        }
        if groups != 1 && groups != kv_heads {
            return Err(invalid(format!("1 or {kv_heads} lanes of a layer"), groups.to_string()));
        }
        if head_dim == 0 || head_dim > 256 {
            let what = format!("heads {head_dim} wide");
            return Err(CudaError::Unsupported { what, advice: "use --device cpu" }.into());
        }
        if specialisation.codes.is_some() && !head_dim.is_multiple_of(8) {
            let what = format!("a cache of codes for heads {head_dim} wide, no multiple of 8");
            return Err(
                CudaError::Unsupported { what, advice: "use --kv-dtype bf16, or --device cpu" }.into()
            );
        }
        let rows = Module::load(device, &ROWS, specialisation)?.function("attention_rows", 0)?;
        Ok(Self { specialisation: *specialisation, max_spans, decode: None, prefill: None, rows })
    }

    /// Attention of a step in which span i has one query, row i.
    ///
    /// `qkv` is `[rows, (h + 2g) d]` with rotated queries first, `mixed` `[rows, h d]`, both in the weights' format;
    /// `scale` is the factor of every dot product. The lanes have grown by the step's entries, and `step.first_pages`
    /// counts their pages. Rows of padding spans hold anything afterwards.
    ///
    /// May start before the launches just before it have ended: those may write `qkv`, the last entry of each lane and
    /// any lifetimes, but neither `step`, tables and lengths nor other entries. Uses on one device are one at a time.
    ///
    /// `told` hears of the scores, if given; the lanes must have statistics then, and the pages of the step's lanes in
    /// this layer must not be more than it was made for.
    ///
    /// # Errors
    /// Buffers that are too short, lanes without statistics where scores are told, a failed device.
    #[allow(clippy::too_many_arguments)]
    pub fn decode(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        size: StepSize,
        layer: usize,
        scale: f32,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
        told: Option<&ToldScores>,
    ) -> Result<(), KernelError> {
        self.check(lanes, layer, size.rows.max(size.spans), qkv, mixed)?;
        at_most("spans of a decode step", size.spans, self.max_spans.min(step.max_spans))?;
        at_most("spans of a decode step, one row each", size.spans, size.rows)?;
        let stride = step.max_spans * self.specialisation.groups + 1;
        at_most("lengths of `first_pages` up to this layer", (layer + 1) * stride, step.first_pages.len())?;
        let first_pages = step.first_pages.pointer() + (4 * layer * stride) as u64;
        if let Some(told) = told {
            at_most(
                "rows that scores are told of",
                size.spans * self.specialisation.query_heads,
                told.stats.len(),
            )?;
            at_most("statistics of an entry", 1, self.specialisation.statistics)?;
        }
        let told = told.map_or((0, 0), |told| (told.scores.pointer(), told.stats.pointer()));
        let Some(decode) = &self.decode else {
            return self.rows(lanes, step, size.spans, layer, scale, qkv, mixed, (first_pages, told));
        };
        let arguments = DecodeArguments {
            lanes: lanes.tables(),
            spans: step.spans.pointer(),
            first_pages,
            qkv: qkv.pointer(),
            mixed: mixed.pointer(),
            parts: decode.parts.pointer(),
            part_stats: decode.part_stats.pointer(),
            warp_parts: decode.warp_parts.pointer(),
            told: told.0,
            told_stats: told.1,
            layer: layer as u32,
            units: (size.spans * self.specialisation.groups) as u32,
            scale,
        };
        if size.spans == 0 {
            return Ok(());
        }
        // SAFETY: the structure mirrors `DecodeArgs`; lengths are checked above, and lanes are of the kernel's kind.
        Ok(unsafe { decode.function.launch(decode.grid, &arguments) }?)
    }

    /// Attention of a step with any number of queries in each span.
    ///
    /// `host_spans` is what `step.spans` holds, in its order. The rest is as for [`DeviceAttention::decode`], except
    /// that `first_pages` is not read.
    ///
    /// `sums`, f32 `[rows, h]`, hear what each row's exponentials add up to, if given: the logarithm to 2 of the sum of
    /// 2 to the scores, as [`ToldScores`] has them; infinity where a row saw nothing. Says whether they are told: formats and widths
    /// that `prefill.cu` does not serve leave them as they are.
    ///
    /// # Errors
    /// Buffers that are too short, a failed device.
    #[allow(clippy::too_many_arguments)]
    pub fn prefill(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        host_spans: &[DeviceSpan],
        layer: usize,
        scale: f32,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
        sums: Option<&DeviceBuffer<f32>>,
    ) -> Result<bool, KernelError> {
        let real = host_spans.iter().filter(|span| span.slot != u32::MAX);
        let rows = real.map(|span| span.first_row as usize + span.queries as usize).max().unwrap_or(0);
        self.check(lanes, layer, rows, qkv, mixed)?;
        at_most("spans of a step", host_spans.len(), step.spans.len())?;
        let Some(prefill) = self.prefill.as_ref().filter(|_| scale > 0.0) else {
            self.rows(lanes, step, rows, layer, scale, qkv, mixed, (0, (0, 0)))?;
            return Ok(false);
        };
        if let Some(sums) = sums {
            at_most("rows whose sums are told", rows * self.specialisation.query_heads, sums.len())?;
        }
        for (index, spans) in host_spans.chunks(MOST_SPANS).enumerate() {
            let mut first_tile = [0u32; MOST_SPANS + 1];
            let mut tiles = 0;
            for (span, first) in spans.iter().zip(&mut first_tile) {
                *first = tiles as u32;
                tiles +=
                    if span.slot == u32::MAX { 0 } else { (span.queries as usize).div_ceil(prefill.queries) };
            }
            let arguments = PrefillArguments {
                lanes: lanes.tables(),
                spans: step.spans.pointer() + (index * MOST_SPANS * size_of::<DeviceSpan>()) as u64,
                qkv: qkv.pointer(),
                mixed: mixed.pointer(),
                sums: sums.map_or(0, DeviceBuffer::pointer),
                map: lanes.page_map(),
                layer: layer as u32,
                scale,
                span_count: spans.len() as u32,
                first_tile,
            };
            let grid = Grid::new(tiles, prefill.threads).by(self.specialisation.kv_heads).early();
            // SAFETY: the structure mirrors `PrefillArgs`; lengths are checked above, and lanes are of the
            // kernel's kind.
            unsafe { prefill.function.launch(grid, &arguments) }?;
        }
        Ok(sums.is_some())
    }

    #[allow(clippy::too_many_arguments)]
    fn rows(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        rows: usize,
        layer: usize,
        scale: f32,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
        (first_pages, told): (u64, (u64, u64)),
    ) -> Result<(), KernelError> {
        at_most("rows of a step", rows, step.rows.len())?;
        let (qkv, mixed) = (qkv.pointer(), mixed.pointer());
        let rows_pointer = step.rows.pointer();
        let arguments = RowsArguments {
            lanes: lanes.tables(),
            rows: rows_pointer,
            qkv,
            mixed,
            first_pages,
            told: told.0,
            told_stats: told.1,
            layer: layer as u32,
            scale,
        };
        let grid = Grid::new(rows, 32 * ROWS_WARPS as u32).by(self.specialisation.query_heads).early();
        // SAFETY: the structure mirrors `RowsArgs`; the callers have checked lengths and lanes.
        Ok(unsafe { self.rows.launch(grid, &arguments) }?)
    }

    fn check(
        &self,
        lanes: &DeviceLanes,
        layer: usize,
        rows: usize,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        lanes.check(OP, &self.specialisation)?;
        if layer >= lanes.layers() {
            return Err(invalid(format!("a layer below {}", lanes.layers()), layer.to_string()));
        }
        let Specialisation { weights, query_heads, kv_heads, head_dim, .. } = self.specialisation;
        let row = head_dim * weights.bytes();
        at_most("bytes of queries, keys and values", rows * (query_heads + 2 * kv_heads) * row, qkv.len())?;
        at_most("bytes of mixed values", rows * query_heads * row, mixed.len())
    }
}

impl Prefill {
    /// `source` with blocks of so many rows, threads, and bytes of dynamic shared memory.
    fn new(
        device: &Device,
        specialisation: &Specialisation,
        source: &'static Source,
        (rows, threads, shared): (usize, u32, usize),
    ) -> Result<Self, KernelError> {
        let function =
            Module::load(device, source, specialisation)?.function("attention_prefill", shared as u32)?;
        Ok(Self { function, queries: rows / ratio(specialisation), threads })
    }
}

impl Decode {
    fn new(device: &Device, specialisation: &Specialisation, max_spans: usize) -> Result<Self, KernelError> {
        let capability = device.facts().capability;
        let plan = DecodePlan::new(capability, specialisation);
        let module = Module::load(device, &DECODE, specialisation)?;
        let function = module.function("attention_decode", plan.asked(capability) as u32)?;
        let blocks = device.facts().multiprocessors as usize;
        let units = max_spans * specialisation.kv_heads;
        let members = ratio(specialisation);
        let part = members * specialisation.head_dim;
        let what = "partial results of attention";
        let parts = DeviceBuffer::uninitialized(device, what, (blocks + units) * part)?;
        let part_stats = DeviceBuffer::uninitialized(device, what, (blocks + units) * members * 2)?;
        // `UNWRITTEN` of `parts.cuh`, which every launch leaves behind as well.
        parts.fill_bytes(0xff)?;
        part_stats.fill_bytes(0xff)?;
        Ok(Self {
            function,
            grid: Grid::new(blocks, 32 * plan.warps as u32).early(),
            parts,
            part_stats,
            warp_parts: DeviceBuffer::uninitialized(device, what, blocks * plan.warps * part)?,
        })
    }
}

kernel_struct! {
    struct DecodeArguments as DecodeArgs {
        lanes: LaneTables,
        spans: u64,
        first_pages: u64,
        qkv: u64,
        mixed: u64,
        parts: u64,
        part_stats: u64,
        warp_parts: u64,
        told: u64,
        told_stats: u64,
        layer: u32,
        units: u32,
        scale: f32,
    }
}

kernel_struct! {
    struct PrefillArguments as PrefillArgs {
        lanes: LaneTables,
        spans: u64,
        qkv: u64,
        mixed: u64,
        sums: u64,
        map: u64,
        layer: u32,
        scale: f32,
        span_count: u32,
        first_tile: [u32; MOST_SPANS + 1],
    }
}

kernel_struct! {
    struct RowsArguments as RowsArgs {
        lanes: LaneTables,
        rows: u64,
        qkv: u64,
        mixed: u64,
        first_pages: u64,
        told: u64,
        told_stats: u64,
        layer: u32,
        scale: f32,
    }
}

fn at_most(what: &'static str, wanted: usize, there: usize) -> Result<(), KernelError> {
    if wanted <= there {
        return Ok(());
    }
    Err(invalid(format!("at most {there} {what}"), wanted.to_string()))
}

fn invalid(expected: String, got: String) -> KernelError {
    KernelError::Invalid { op: OP, expected, got }
}
