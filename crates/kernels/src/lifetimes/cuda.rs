//! Launches of the kernels in `grow.cu` and `reclaim.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{
    CudaError, Device, DeviceBuffer, DeviceLanes, DeviceStep, Function, Grid, LaneTables, Module, Source,
    Specialisation, StepSize,
};
use crate::{KernelError, PAGE_ENTRIES};

pub(crate) const GROW_SOURCE: Source =
    Source { file: "lifetimes/grow.cu", text: concat!(include_str!("lower.cuh"), include_str!("grow.cu")) };
pub(crate) const RECLAIM_SOURCE: Source =
    Source { file: "lifetimes/reclaim.cu", text: include_str!("reclaim.cu") };

/// Cuts of one launch: they travel with its arguments.
const CUTS: usize = 16;
/// Slots that one launch clears.
const CLEARED: usize = 64;
/// Spans of a step that there is room to count for.
const MAX_SPANS: usize = 4096;

/// An end for the entries of part of a sequence, in all its lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PromptCut {
    /// The sequence's slot.
    pub slot: u32,
    /// First position that is cut.
    pub first: u32,
    /// Position behind the last that is cut.
    pub end: u32,
    /// First query that no longer sees these entries, unless they end earlier or their floor is higher.
    pub expires_at: u32,
    /// The query that decides so.
    pub killer: u32,
    /// First positions of a sequence that never expire.
    pub floor_sinks: u32,
    /// Newest entries that are always seen, the query's own included.
    pub floor_recent: u32,
}

/// An entry that was freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct DeathRecord {
    /// Its sequence's slot.
    pub slot: u32,
    /// Its layer.
    pub layer: u32,
    /// Its lane within the layer.
    pub group: u32,
    /// Its position.
    pub position: u32,
    /// First query that did not see it.
    pub expires_at: u32,
    /// The query that condemned it; `u32::MAX` where none did.
    pub killer: u32,
}

/// Room for the entries that are freed. The order of records is that in which blocks came, so sort them.
#[derive(Debug)]
pub struct Deaths {
    /// The entries.
    pub records: DeviceBuffer<DeathRecord>,
    /// One number: how many died since the host last set it to 0. More than there is room for means that the rest
    /// was not recorded.
    pub count: DeviceBuffer<u32>,
}

impl Deaths {
    /// Room for `capacity` deaths; none so far.
    ///
    /// # Errors
    /// No such memory on the device.
    pub fn new(device: &Device, capacity: usize) -> Result<Self, CudaError> {
        Ok(Self {
            records: DeviceBuffer::uninitialized(device, "records of freed entries", capacity)?,
            count: DeviceBuffer::zeroed(device, "the number of freed entries", 1)?,
        })
    }
}

/// Positions and lifetimes of the entries of a lane, in the order in which they lie.
pub type LaneLifetimes = (Vec<u32>, Vec<u32>);

/// The kernels that let lanes grow and shrink.
#[derive(Debug)]
pub struct DeviceLifetimes {
    grow: Function,
    cut: Function,
    gather: Function,
    reclaim: Function,
    clear: Function,
    /// `[1 + 3 * MAX_SPANS]`: zeros between launches.
    totals: DeviceBuffer<u32>,
    groups: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct GrowArgs {
    lanes: LaneTables,
    spans: u64,
    first_pages: u64,
    units: u32,
    stride: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct CutArgs {
    lanes: LaneTables,
    cuts: [PromptCut; CUTS],
}

#[derive(Clone, Copy)]
#[repr(C)]
struct GatherArgs {
    lanes: LaneTables,
    offsets: u64,
    positions: u64,
    expires_at: u64,
    first_lane: u32,
    padding: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ReclaimArgs {
    lanes: LaneTables,
    spans: u64,
    status: u64,
    totals: u64,
    deaths: u64,
    death_count: u64,
    death_capacity: u32,
    padding: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ClearArgs {
    lanes: LaneTables,
    slots: [u32; CLEARED],
}

impl DeviceLifetimes {
    /// The kernels for lanes of one kind.
    ///
    /// # Errors
    /// A kernel that does not compile, or no memory.
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let grow = Module::load(device, &GROW_SOURCE, specialisation)?;
        let reclaim = Module::load(device, &RECLAIM_SOURCE, specialisation)?;
        Ok(Self {
            grow: grow.function("grow", 0)?,
            cut: grow.function("cut", 0)?,
            gather: grow.function("gather", 0)?,
            reclaim: reclaim.function("reclaim", 0)?,
            clear: reclaim.function("clear", 0)?,
            totals: DeviceBuffer::zeroed(device, "totals of the lanes", 1 + 3 * MAX_SPANS)?,
            groups: specialisation.groups,
        })
    }

    /// Every lane of the step's sequences becomes longer by its span's queries, and takes pages for them; the new
    /// entries are yet to be written. Then sets `first_pages` of every layer. A launch.
    ///
    /// The host has made sure that the pool has the pages and that no lane grows beyond its table.
    ///
    /// # Errors
    /// A step that is larger than its buffers.
    pub fn grow(&self, lanes: LaneTables, step: &DeviceStep, size: StepSize) -> Result<(), KernelError> {
        self.check("grow", lanes, step, size)?;
        let argument = GrowArgs {
            lanes,
            spans: step.spans.pointer(),
            first_pages: step.first_pages.pointer(),
            units: (size.spans * self.groups) as u32,
            stride: (step.max_spans * self.groups + 1) as u32,
        };
        let grid = Grid::new(lanes.layers as usize, 512).early();
        // SAFETY: the argument is the kernel's; the buffers are as large as just checked, tables as their maker says.
        Ok(unsafe { self.grow.launch(grid, &argument) }?)
    }

    /// Lowers the lifetimes of what the cuts say, in all lanes of their slots. Cuts of one slot that meet must not
    /// come in one call. Launches.
    ///
    /// # Errors
    /// A slot that does not exist.
    pub fn cut(&self, lanes: LaneTables, cuts: &[PromptCut]) -> Result<(), KernelError> {
        check_slots("cut", lanes, cuts.iter().map(|cut| cut.slot))?;
        for some in cuts.chunks(CUTS) {
            let mut argument = CutArgs { lanes, cuts: [PromptCut::zeroed(); CUTS] };
            argument.cuts[..some.len()].copy_from_slice(some);
            let grid = Grid::new(lanes.layers as usize * self.groups, 256).by(some.len());
            // SAFETY: the argument is the kernel's, and its slots exist.
            unsafe { self.cut.launch(grid, &argument) }?;
        }
        Ok(())
    }

    /// Frees, in every lane of the step's sequences, the entries that no query after the step's sees
    /// (`expires_at <= first_position + queries`). The last living entries fill the holes, in ascending order; pages
    /// that become empty go back to the pool. A launch.
    ///
    /// Written to `status` u32 `[1 + 3 * spans]`: the free pages of the pool; then of each span the number of its
    /// lanes whose length is a multiple of 32 (pages that one more token takes), the pages they hold and their live
    /// entries; zeros for padding.
    ///
    /// # Errors
    /// A step that is larger than its buffers, too short a `status`.
    pub fn reclaim(
        &self,
        lanes: LaneTables,
        step: &DeviceStep,
        size: StepSize,
        died: Option<&Deaths>,
        status: &DeviceBuffer<u32>,
    ) -> Result<(), KernelError> {
        let op = "reclaim";
        self.check(op, lanes, step, size)?;
        if status.len() < 1 + 3 * size.spans {
            let (expected, got) = (1 + 3 * size.spans, status.len());
            return Err(KernelError::Length { op, what: "status", expected, got });
        }
        let argument = ReclaimArgs {
            lanes,
            spans: step.spans.pointer(),
            status: status.pointer(),
            totals: self.totals.pointer(),
            deaths: died.map_or(0, |died| died.records.pointer()),
            death_count: died.map_or(0, |died| died.count.pointer()),
            death_capacity: died.map_or(0, |died| u32::try_from(died.records.len()).unwrap_or(u32::MAX)),
            padding: 0,
        };
        let grid = Grid::new(lanes.layers as usize * self.groups, 256).by(size.spans).early();
        // SAFETY: as in `grow`.
        Ok(unsafe { self.reclaim.launch(grid, &argument) }?)
    }

    /// Forgets all entries of these slots; their pages are in the pool afterwards. Launches.
    ///
    /// # Errors
    /// A slot that does not exist.
    pub fn clear(&self, lanes: LaneTables, slots: &[u32]) -> Result<(), KernelError> {
        check_slots("clear", lanes, slots.iter().copied())?;
        for some in slots.chunks(CLEARED) {
            let mut argument = ClearArgs { lanes, slots: [0; CLEARED] };
            argument.slots[..some.len()].copy_from_slice(some);
            let grid = Grid::new(lanes.layers as usize * self.groups, 64).by(some.len());
            // SAFETY: the argument is the kernel's, and its slots exist.
            unsafe { self.clear.launch(grid, &argument) }?;
        }
        Ok(())
    }

    /// Positions and lifetimes of all live entries of a slot, lane by lane (`layer * groups + group`); waits for the
    /// device.
    ///
    /// # Errors
    /// A slot that does not exist, no memory for the answer.
    pub fn lifetimes_of(&self, lanes: &DeviceLanes, slot: usize) -> Result<Vec<LaneLifetimes>, KernelError> {
        check_slots("lifetimes", lanes.tables(), [u32::try_from(slot).unwrap_or(u32::MAX)])?;
        let count = lanes.layers() * self.groups;
        let lengths = lanes.lengths()?;
        let lengths = &lengths[slot * count..][..count];
        let mut total = 0;
        let offsets: Vec<u32> = lengths
            .iter()
            .map(|&length| {
                let offset = total;
                total += length;
                offset
            })
            .collect();
        let what = "a copy of lifetimes";
        let device = self.gather.device();
        let offsets_there = DeviceBuffer::copy_of(device, what, &offsets)?;
        let positions = DeviceBuffer::<u32>::uninitialized(device, what, total as usize)?;
        let expires_at = DeviceBuffer::<u32>::uninitialized(device, what, total as usize)?;
        let argument = GatherArgs {
            lanes: lanes.tables(),
            offsets: offsets_there.pointer(),
            positions: positions.pointer(),
            expires_at: expires_at.pointer(),
            first_lane: (slot * count) as u32,
            padding: 0,
        };
        // SAFETY: the argument is the kernel's; both targets hold what the lanes do, and live until `read` has waited.
        unsafe { self.gather.launch(Grid::new(count, 256), &argument) }?;
        let (positions, expires_at) = (positions.read()?, expires_at.read()?);
        let ranges =
            offsets.iter().zip(lengths).map(|(&first, &length)| first as usize..(first + length) as usize);
        Ok(ranges.map(|range| (positions[range.clone()].to_vec(), expires_at[range].to_vec())).collect())
    }

    fn check(
        &self,
        op: &'static str,
        lanes: LaneTables,
        step: &DeviceStep,
        size: StepSize,
    ) -> Result<(), KernelError> {
        let most = step.max_spans.min(step.spans.len()).min(MAX_SPANS);
        if size.spans > most {
            return Err(KernelError::Invalid {
                op,
                expected: format!("at most {most} spans"),
                got: size.spans.to_string(),
            });
        }
        let expected = lanes.layers as usize * (step.max_spans * self.groups + 1);
        if step.first_pages.len() < expected {
            let got = step.first_pages.len();
            return Err(KernelError::Length { op, what: "first_pages", expected, got });
        }
        Ok(())
    }
}

fn check_slots(
    op: &'static str,
    lanes: LaneTables,
    slots: impl IntoIterator<Item = u32>,
) -> Result<(), KernelError> {
    match slots.into_iter().find(|&slot| slot >= lanes.slots) {
        Some(slot) => Err(KernelError::Invalid {
            op,
            expected: format!("slots below {}", lanes.slots),
            got: slot.to_string(),
        }),
        None => Ok(()),
    }
}

// The kernels divide by it.
const _: () = assert!(PAGE_ENTRIES == 32);
