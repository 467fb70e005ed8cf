//! Launches of the kernels in `vote.cu`.

use crate::cuda::{
    Device, DeviceBuffer, DeviceStep, Function, Grid, LaneTables, Module, Source, Specialisation, StepSize,
};
use crate::{DType, KernelError};

pub(crate) const SOURCE: Source = Source {
    file: "vote/vote.cu",
    text: concat!(include_str!("../lifetimes/lower.cuh"), include_str!("votes.cuh"), include_str!("vote.cu")),
};

const OP: &str = "vote";
/// Queries that one step of the tensor cores takes.
const TILE: usize = 16;
/// Rows whose split gates there is room for at most: a longer step is voted on in several launches.
const MOST_ROWS: usize = 8192;
/// Bytes for split gates at most.
const MOST_BYTES: usize = 32 << 20;
/// Up to so many rows for each span, gates are split where they are needed, which spares a launch.
const FEW_ROWS: usize = 4;
/// Shared memory of a block with few queries at least: one fits on a multiprocessor beside a block of the next kernel,
/// two do not.
const FEW_BYTES: usize = 80 << 10;
/// Blocks of many queries on each multiprocessor, of which two fit at once.
const MANY_BLOCKS: usize = 4;

/// The votes of a step's tokens on the entries before them, in one layer.
///
/// The contract is that of [`first_refusals`](super::first_refusals), and each refusal is then taken as
/// `Lane::lower` does: the entry ends at the query that refuses it, or at its floor if that is later. Decode, chunks
/// and whole prompts decide from the same bits.
#[derive(Debug)]
pub struct DeviceVotes {
    few: Function,
    split: Function,
    many: Function,
    plain: Function,
    /// Split query gates; empty for f32 caches, which need none.
    tiles: DeviceBuffer<u8>,
    /// Rows that `tiles` has room for.
    rows: usize,
    /// What the blocks that share a group of pages have found `[room][entries]`, NEVER between launches; and how many
    /// of them have ended `[room]`, 0 between launches.
    found: DeviceBuffer<u32>,
    tickets: DeviceBuffer<u32>,
    specialisation: Specialisation,
    heads: usize,
    few_threads: u32,
    multiprocessors: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct VoteArgs {
    lanes: LaneTables,
    spans: u64,
    first_pages: u64,
    gates: u64,
    bias: u64,
    tiles: u64,
    found: u64,
    tickets: u64,
    units: u32,
    layer: u32,
    heads: u32,
    first_row: u32,
    end_row: u32,
    sinks: u32,
    recent: u32,
    lower: u32,
    root: f32,
    room: u32,
}

/// Bytes of one tile of split gates, as in `votes.cuh`.
fn tile_bytes(specialisation: &Specialisation) -> usize {
    let (parts, factors) = if specialisation.cache == DType::F16 { (2, 4 * TILE) } else { (3, 0) };
    parts * specialisation.side_width.div_ceil(32).max(1) * 1024 + factors
}

impl DeviceVotes {
    /// The kernels for lanes of one kind and `gate_heads` gates in each layer: one for all lanes, or one for each.
    ///
    /// # Errors
    /// Gates that are wider than 256, or not as many as lanes; a kernel that does not compile; no memory.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        gate_heads: usize,
    ) -> Result<Self, KernelError> {
        let width = specialisation.side_width;
        if !(1..=256).contains(&width) {
            let (expected, got) = ("gates between 1 and 256 wide".to_owned(), width.to_string());
            return Err(KernelError::Invalid { op: OP, expected, got });
        }
        if gate_heads != 1 && gate_heads != specialisation.groups {
            let expected = format!("one gate head, or one for each of {} lanes", specialisation.groups);
            return Err(KernelError::Invalid { op: OP, expected, got: gate_heads.to_string() });
        }
        let bytes = tile_bytes(specialisation);
        // As in the kernel file: tiles of one step and entries of a block; warps that have each a panel of f32 keys;
        // warps that have each half a tile and two pages.
        let (turns, entries, panels, few_warps) = match width {
            0..=64 => (2, 256, 4, 8),
            65..=128 => (1, 256, 2, 4),
            _ => (1, 128, 1, 2),
        };
        let few = few_warps * (bytes.div_ceil(128) * 64 + 2 * (width * 64 + 256));
        let plain = specialisation.cache == DType::F32;
        let shared = |bytes: usize, used: bool| if used { bytes as u32 } else { 0 };
        let module = Module::load(device, &SOURCE, specialisation)?;
        let multiprocessors = device.facts().multiprocessors as usize;
        let room = if plain { 0 } else { MANY_BLOCKS * multiprocessors / 2 };
        let found = DeviceBuffer::uninitialized(device, "first refusals", room * entries)?;
        found.fill_bytes(0xff)?;
        let tiles = if plain { 0 } else { (MOST_BYTES / (bytes * gate_heads)).clamp(1, MOST_ROWS / TILE) };
        Ok(Self {
            few: module.function("vote_few", shared(few.max(FEW_BYTES), !plain))?,
            split: module.function("split", 0)?,
            many: module.function("vote_many", shared(3 * turns * bytes, !plain))?,
            plain: module.function("vote_plain", shared(panels * width * 33 * 4, plain))?,
            tiles: DeviceBuffer::uninitialized(device, "split query gates", tiles * gate_heads * bytes)?,
            rows: tiles * TILE,
            found,
            tickets: DeviceBuffer::zeroed(device, "first refusals", room)?,
            specialisation: *specialisation,
            heads: gate_heads,
            few_threads: 32 * few_warps as u32,
            multiprocessors,
        })
    }

    /// Every new token of the step votes on all entries before it in its sequence's lanes of `layer`, and the first
    /// that refuses one ends it, under the floors (sinks, recent). One launch for a few tokens of each sequence,
    /// two for prompts.
    ///
    /// `gates` is f32 `[rows, 2 G r]`: of each row the query gates of the G heads, then the key gates, which are in
    /// the pages already. `bias` is `[G]`. The lanes have grown by the step, and `first_pages` says so. Without
    /// `lower` everything is computed and nothing changes.
    ///
    /// # Errors
    /// Buffers that are too short, a layer that does not exist.
    #[allow(clippy::too_many_arguments)]
    pub fn vote(
        &self,
        lanes: LaneTables,
        step: &DeviceStep,
        size: StepSize,
        layer: usize,
        gates: &DeviceBuffer<f32>,
        bias: &DeviceBuffer<f32>,
        floors: (u32, u32),
        lower: bool,
    ) -> Result<(), KernelError> {
        let width = self.specialisation.side_width;
        let units = size.spans * self.specialisation.groups;
        let stride = step.max_spans * self.specialisation.groups + 1;
        if layer >= lanes.layers as usize {
            let (expected, got) = (format!("a layer below {}", lanes.layers), layer.to_string());
            return Err(KernelError::Invalid { op: OP, expected, got });
        }
        let least = |what, expected, got| {
            if got >= expected { Ok(()) } else { Err(KernelError::Length { op: OP, what, expected, got }) }
        };
        least("gates", size.rows * 2 * self.heads * width, gates.len())?;
        least("bias", self.heads, bias.len())?;
        least("spans", size.spans, step.spans.len().min(step.max_spans))?;
        least("first_pages", (layer + 1) * stride, step.first_pages.len())?;
        let mut argument = VoteArgs {
            lanes,
            spans: step.spans.pointer(),
            first_pages: step.first_pages.pointer() + (layer * stride * size_of::<u32>()) as u64,
            gates: gates.pointer(),
            bias: bias.pointer(),
            tiles: self.tiles.pointer(),
            found: self.found.pointer(),
            tickets: self.tickets.pointer(),
            units: units as u32,
            layer: layer as u32,
            heads: self.heads as u32,
            first_row: 0,
            end_row: size.rows as u32,
            sinks: floors.0,
            recent: floors.1,
            lower: u32::from(lower),
            root: (width as f32).sqrt(),
            room: self.tickets.len() as u32,
        };
        if units == 0 || size.rows == 0 {
            return Ok(());
        }
        // Enough blocks to fill the device whatever the lanes' lengths; those without a page are over at once.
        if self.specialisation.cache == DType::F32 {
            let grid = Grid::new(8 * self.multiprocessors, self.plain_threads()).early();
            // SAFETY: the argument is the kernel's, and its buffers are as large as just checked.
            return Ok(unsafe { self.plain.launch(grid, &argument) }?);
        }
        if size.rows <= FEW_ROWS * size.spans {
            let grid = Grid::new(self.multiprocessors, self.few_threads).early();
            // SAFETY: as above.
            return Ok(unsafe { self.few.launch(grid, &argument) }?);
        }
        for first in (0..size.rows).step_by(self.rows) {
            let end = size.rows.min(first + self.rows);
            (argument.first_row, argument.end_row) = (first as u32, end as u32);
            let warps = (end - first).div_ceil(TILE) * self.heads * 2;
            // SAFETY: as above; `tiles` has room for the rows first..end.
            unsafe { self.split.launch(Grid::new(warps.div_ceil(8), 256).early(), &argument) }?;
            // Blocks end at different times: nobody votes on what comes later.
            let grid = Grid::new(MANY_BLOCKS * self.multiprocessors, 256).early();
            // SAFETY: as above.
            unsafe { self.many.launch(grid, &argument) }?;
        }
        Ok(())
    }

    /// As in the kernel file: one panel of f32 keys per warp.
    fn plain_threads(&self) -> u32 {
        match self.specialisation.side_width {
            0..=64 => 128,
            65..=128 => 64,
            _ => 32,
        }
    }
}
