//! Launches of the kernels in `vote.cu`.

use super::plan::{MANY_THREADS, TILE, VotePlan};
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceLanes, DeviceStep, Function, Grid, LaneTables, Module, Source,
    Specialisation, StepSize, kernel_struct,
};
use crate::error::check_at_least;
use crate::lifetimes::Floors;
use crate::{DType, KernelError};

pub(crate) const SOURCE: Source = Source {
    file: "vote/vote.cu",
    text: concat!(include_str!("votes.cuh"), include_str!("../cuda/line.cuh"), include_str!("vote.cu")),
    constants: |_, specialisation| VotePlan::new(specialisation).constants(),
    arguments: &[VoteArgs::LAYOUT],
};

const OP: &str = "vote";
/// Rows whose split gates there is room for at most: a longer step is voted on in several launches.
const MOST_ROWS: usize = 8192;
/// Bytes for split gates at most.
const MOST_BYTES: usize = 32 << 20;
/// Up to so many rows for each span, gates are split where they are needed, which spares a launch.
const FEW_ROWS: usize = 4;
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
    plan: VotePlan,
    multiprocessors: usize,
}

kernel_struct! {
    struct VoteArgs as VoteArgs {
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
        floors: Floors,
        lower: u32,
        root: f32,
        room: u32,
    }
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
        let plan = VotePlan::new(specialisation);
        let plain = specialisation.cache == DType::F32;
        let [few, many, panels] = plan.shared();
        let shared = |bytes: u32, used: bool| if used { bytes } else { 0 };
        let module = Module::load(device, &SOURCE, specialisation)?;
        let multiprocessors = device.facts().multiprocessors as usize;
        let room = if plain { 0 } else { MANY_BLOCKS * multiprocessors / 2 };
        let found = DeviceBuffer::uninitialized(device, "first refusals", room * plan.block_entries())?;
        found.fill_bytes(0xff)?;
        let bytes = plan.tile_bytes * gate_heads;
        let tiles = if plain { 0 } else { (MOST_BYTES / bytes).clamp(1, MOST_ROWS / TILE) };
        Ok(Self {
            few: module.function("vote_few", shared(few, !plain))?,
            split: module.function("split", 0)?,
            many: module.function("vote_many", shared(many, !plain))?,
            plain: module.function("vote_plain", shared(panels, plain))?,
            tiles: DeviceBuffer::uninitialized(device, "split query gates", tiles * bytes)?,
            rows: tiles * TILE,
            found,
            tickets: DeviceBuffer::zeroed(device, "first refusals", room)?,
            specialisation: *specialisation,
            heads: gate_heads,
            plan,
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
        lanes: &DeviceLanes,
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
        lanes.check(OP, &self.specialisation)?;
        if layer >= lanes.layers() {
            let (expected, got) = (format!("a layer below {}", lanes.layers()), layer.to_string());
            return Err(KernelError::Invalid { op: OP, expected, got });
        }
        check_at_least(OP, "gates", size.rows * 2 * self.heads * width, gates.len())?;
        check_at_least(OP, "bias", self.heads, bias.len())?;
        check_at_least(OP, "spans", size.spans, step.spans.len().min(step.max_spans))?;
        check_at_least(OP, "first_pages", (layer + 1) * stride, step.first_pages.len())?;
        let mut argument = VoteArgs {
            lanes: lanes.tables(),
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
            floors: Floors { sinks: floors.0, recent: floors.1 },
            lower: u32::from(lower),
            root: (width as f32).sqrt(),
            room: self.tickets.len() as u32,
        };
        if units == 0 || size.rows == 0 {
            return Ok(());
        }
        // Enough blocks to fill the device whatever the lanes' lengths; those without a page are over at once.
        if self.specialisation.cache == DType::F32 {
            let grid = Grid::new(8 * self.multiprocessors, 32 * self.plan.plain_warps as u32).early();
            // SAFETY: the argument is the kernel's, and its buffers are as large as just checked.
            return Ok(unsafe { self.plain.launch(grid, &argument) }?);
        }
        if size.rows <= FEW_ROWS * size.spans {
            let grid = Grid::new(self.multiprocessors, 32 * self.plan.few_warps as u32).early();
            // SAFETY: as above.
            return Ok(unsafe { self.few.launch(grid, &argument) }?);
        }
        for first in (0..size.rows).step_by(self.rows) {
            let end = size.rows.min(first + self.rows);
            (argument.first_row, argument.end_row) = (first as u32, end as u32);
            let warps = (end - first).div_ceil(TILE) * self.heads * 2;
            // SAFETY: as above; `tiles` has room for the rows first..end.
            unsafe {
                self.split.launch(
                    Grid::new(warps.div_ceil(MANY_THREADS / 32), MANY_THREADS as u32).early(),
                    &argument,
                )
            }?;
            // Blocks end at different times: nobody votes on what comes later.
            let grid = Grid::new(MANY_BLOCKS * self.multiprocessors, MANY_THREADS as u32).early();
            // SAFETY: as above.
            unsafe { self.many.launch(grid, &argument) }?;
        }
        Ok(())
    }
}
