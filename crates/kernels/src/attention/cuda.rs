//! Attention on the device, over lanes as they lie there.
//!
//! Three kernels: `decode.cu` for one query per sequence, `prefill.cu` for many, both with tensor cores and 16-bit
//! caches, and `rows.cu` for all other formats and head widths.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{
    CudaError, Device, DeviceBuffer, DeviceSpan, DeviceStep, Function, Grid, LaneTables, Module, Source,
    Specialisation, StepSize,
};
use crate::{KernelError, PAGE_ENTRIES};

/// One query per sequence.
pub const DECODE: Source = Source {
    file: "attention/decode.cu",
    text: concat!(
        include_str!("tiles.cuh"),
        include_str!("unit.cuh"),
        include_str!("feed.cuh"),
        include_str!("parts.cuh"),
        include_str!("decode.cu")
    ),
};
/// Many queries.
pub const PREFILL: Source = Source {
    file: "attention/prefill.cu",
    text: concat!(include_str!("tiles.cuh"), include_str!("prefill.cu")),
};
/// Any queries, any format.
pub const ROWS: Source = Source { file: "attention/rows.cu", text: include_str!("rows.cu") };

const OP: &str = "attention on the device";
/// Threads of a block of `rows.cu`.
const ROWS_THREADS: u32 = 128;
/// Spans of one launch of `prefill.cu`, whose first tiles are an argument.
const MOST_SPANS: usize = 64;
/// Most query heads of a KV head in `decode.cu`.
const MOST_MEMBERS: usize = 16;
/// Positions and lifetimes of a page.
const KNOWN_BYTES: usize = 2 * 4 * PAGE_ENTRIES;

/// Attention of one model over one kind of lanes.
#[derive(Debug)]
pub struct DeviceAttention {
    specialisation: Specialisation,
    max_spans: usize,
    decode: Option<Decode>,
    prefill: Option<Prefill>,
    rows: Function,
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

#[derive(Debug)]
struct Prefill {
    function: Function,
    plan: PrefillPlan,
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
        if uses_tensor_cores(specialisation) {
            if ratio(specialisation) <= MOST_MEMBERS {
                attention.decode = Some(Decode::new(device, specialisation, max_spans)?);
            }
            let plan = PrefillPlan::new(device.facts().capability, specialisation.head_dim);
            if ratio(specialisation) <= plan.rows {
                let module = Module::load(device, &PREFILL, specialisation)?;
                let function = module.function("attention_prefill", plan.shared as u32)?;
                attention.prefill = Some(Prefill { function, plan });
            }
        }
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
    /// # Errors
    /// Buffers that are too short, a failed device.
    #[allow(clippy::too_many_arguments)]
    pub fn decode(
        &self,
        lanes: LaneTables,
        step: &DeviceStep,
        size: StepSize,
        layer: usize,
        scale: f32,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        self.check(size.rows.max(size.spans), qkv, mixed)?;
        at_most("spans of a decode step", size.spans, self.max_spans.min(step.max_spans))?;
        at_most("spans of a decode step, one row each", size.spans, size.rows)?;
        let Some(decode) = &self.decode else {
            return self.rows(lanes, step, size.spans, layer, scale, qkv, mixed);
        };
        let stride = step.max_spans * self.specialisation.groups + 1;
        at_most("lengths of `first_pages` up to this layer", (layer + 1) * stride, step.first_pages.len())?;
        let arguments = DecodeArguments {
            lanes,
            spans: step.spans.pointer(),
            first_pages: step.first_pages.pointer() + (4 * layer * stride) as u64,
            qkv: qkv.pointer(),
            mixed: mixed.pointer(),
            parts: decode.parts.pointer(),
            part_stats: decode.part_stats.pointer(),
            warp_parts: decode.warp_parts.pointer(),
            layer: layer as u32,
            lane_units: (size.spans * self.specialisation.groups) as u32,
            scale,
            unused: 0,
        };
        if size.spans == 0 {
            return Ok(());
        }
        // SAFETY: the structure mirrors `DecodeArgs`; lengths are checked above, and the lanes are the caller's care.
        Ok(unsafe { decode.function.launch(decode.grid, &arguments) }?)
    }

    /// Attention of a step with any number of queries in each span.
    ///
    /// `host_spans` is what `step.spans` holds, in its order. The rest is as for [`DeviceAttention::decode`], except
    /// that `first_pages` is not read.
    ///
    /// # Errors
    /// Buffers that are too short, a failed device.
    #[allow(clippy::too_many_arguments)]
    pub fn prefill(
        &self,
        lanes: LaneTables,
        step: &DeviceStep,
        host_spans: &[DeviceSpan],
        layer: usize,
        scale: f32,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let real = host_spans.iter().filter(|span| span.slot != u32::MAX);
        let rows = real.map(|span| span.first_row as usize + span.queries as usize).max().unwrap_or(0);
        self.check(rows, qkv, mixed)?;
        at_most("spans of a step", host_spans.len(), step.spans.len())?;
        let Some(prefill) = self.prefill.as_ref().filter(|_| scale > 0.0) else {
            return self.rows(lanes, step, rows, layer, scale, qkv, mixed);
        };
        let queries = prefill.plan.rows / ratio(&self.specialisation);
        for (index, spans) in host_spans.chunks(MOST_SPANS).enumerate() {
            let mut first_tile = [0u32; MOST_SPANS + 1];
            let mut tiles = 0;
            for (span, first) in spans.iter().zip(&mut first_tile) {
                *first = tiles as u32;
                tiles += if span.slot == u32::MAX { 0 } else { (span.queries as usize).div_ceil(queries) };
            }
            let arguments = PrefillArguments {
                lanes,
                spans: step.spans.pointer() + (index * MOST_SPANS * size_of::<DeviceSpan>()) as u64,
                qkv: qkv.pointer(),
                mixed: mixed.pointer(),
                layer: layer as u32,
                scale,
                span_count: spans.len() as u32,
                first_tile,
            };
            let grid = Grid::new(tiles, prefill.plan.threads).by(self.specialisation.kv_heads).early();
            // SAFETY: the structure mirrors `PrefillArgs`; lengths are checked above, and the lanes are the caller's
            // care.
            unsafe { prefill.function.launch(grid, &arguments) }?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn rows(
        &self,
        lanes: LaneTables,
        step: &DeviceStep,
        rows: usize,
        layer: usize,
        scale: f32,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        at_most("rows of a step", rows, step.rows.len())?;
        let (qkv, mixed) = (qkv.pointer(), mixed.pointer());
        let rows_pointer = step.rows.pointer();
        let arguments = RowsArguments { lanes, rows: rows_pointer, qkv, mixed, layer: layer as u32, scale };
        let grid = Grid::new(rows, ROWS_THREADS).by(self.specialisation.query_heads).early();
        // SAFETY: the structure mirrors `RowsArgs`; the callers have checked lengths, and the lanes are their caller's
        // care.
        Ok(unsafe { self.rows.launch(grid, &arguments) }?)
    }

    fn check(
        &self,
        rows: usize,
        qkv: &DeviceBuffer<u8>,
        mixed: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let Specialisation { weights, query_heads, kv_heads, head_dim, .. } = self.specialisation;
        let row = head_dim * weights.bytes();
        at_most("bytes of queries, keys and values", rows * (query_heads + 2 * kv_heads) * row, qkv.len())?;
        at_most("bytes of mixed values", rows * query_heads * row, mixed.len())
    }
}

impl Decode {
    fn new(device: &Device, specialisation: &Specialisation, max_spans: usize) -> Result<Self, KernelError> {
        let plan = DecodePlan::new(device.facts().capability, specialisation);
        let module = Module::load(device, &DECODE, specialisation)?;
        let function = module.function("attention_decode", plan.shared as u32)?;
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

/// Query heads of a KV head.
fn ratio(specialisation: &Specialisation) -> usize {
    specialisation.query_heads / specialisation.kv_heads
}

/// `SERVED` of `tiles.cuh`.
fn uses_tensor_cores(specialisation: &Specialisation) -> bool {
    let d = specialisation.head_dim;
    specialisation.cache.bytes() == 2 && d.is_multiple_of(16) && (64..=256).contains(&d)
}

/// `ROOMY` of `prefill.cu`: parts with 227 KB of shared memory for a block.
fn is_roomy(capability: (i32, i32)) -> bool {
    matches!(capability, (9 | 10, 0) | (10, 3))
}

/// Bytes of a row of a tile in shared memory: `ROW_BYTES` of `tiles.cuh`.
fn row_bytes(head_dim: usize) -> usize {
    head_dim * 2 + if head_dim.is_multiple_of(64) { 0 } else { 16 }
}

/// The constants of `decode.cu` that a launch needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DecodePlan {
    warps: usize,
    shared: usize,
}

impl DecodePlan {
    fn new(capability: (i32, i32), specialisation: &Specialisation) -> Self {
        let room = match capability {
            (8, 0) => 163_840,
            _ if is_roomy(capability) => 110_592,
            _ => 99_840,
        };
        let tile = PAGE_ENTRIES * row_bytes(specialisation.head_dim) + KNOWN_BYTES;
        let most = if ratio(specialisation) <= 8 { 8 } else { 4 };
        let warps = [8, 4].into_iter().find(|&warps| warps <= most && warps * 3 * tile <= room).unwrap_or(2);
        let tiles = (room / (warps * tile)).min(6);
        Self { warps, shared: warps * tiles * tile }
    }
}

/// The constants of `prefill.cu` that a launch needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PrefillPlan {
    rows: usize,
    threads: u32,
    shared: usize,
}

impl PrefillPlan {
    fn new(capability: (i32, i32), head_dim: usize) -> Self {
        let (wide, roomy) = (head_dim > 128, is_roomy(capability));
        let warps = if wide && roomy { 8 } else { 4 };
        let rows = warps * 16 * if wide { 1 } else { 2 };
        let pages = if wide && !roomy { 1 } else { 2 };
        let buffers = 2 * pages * 2 * PAGE_ENTRIES * row_bytes(head_dim);
        Self { rows, threads: 32 * warps as u32, shared: rows * row_bytes(head_dim) + buffers }
    }
}

/// `DecodeArgs` of `decode.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DecodeArguments {
    lanes: LaneTables,
    spans: u64,
    first_pages: u64,
    qkv: u64,
    mixed: u64,
    parts: u64,
    part_stats: u64,
    warp_parts: u64,
    layer: u32,
    lane_units: u32,
    scale: f32,
    unused: u32,
}

/// `PrefillArgs` of `prefill.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct PrefillArguments {
    lanes: LaneTables,
    spans: u64,
    qkv: u64,
    mixed: u64,
    layer: u32,
    scale: f32,
    span_count: u32,
    first_tile: [u32; MOST_SPANS + 1],
}

/// `RowsArgs` of `rows.cu`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RowsArguments {
    lanes: LaneTables,
    rows: u64,
    qkv: u64,
    mixed: u64,
    layer: u32,
    scale: f32,
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
