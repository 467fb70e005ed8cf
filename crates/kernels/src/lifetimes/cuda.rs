//! Launches of the kernels in `grow.cu` and `reclaim.cu`.

use bytemuck::{Pod, Zeroable};

use super::StepStatus;
use crate::KernelError;
use crate::cuda::{
    Argument, CudaError, Device, DeviceBuffer, DeviceLanes, DeviceStep, Function, Grid, LaneTables, Module,
    Source, Specialisation, StepSize, kernel_struct,
};
use crate::error::check_at_least;

pub(crate) const GROW_SOURCE: Source = Source {
    file: "lifetimes/grow.cu",
    text: include_str!("grow.cu"),
    constants: |_, _| vec![("GROW_THREADS", GROW_THREADS), ("CUT_THREADS", CUT_THREADS), ("CUTS", CUTS)],
    arguments: &[GrowArgs::LAYOUT, PromptCut::LAYOUT, CutArgs::LAYOUT, GatherArgs::LAYOUT],
};
pub(crate) const RECLAIM_SOURCE: Source = Source {
    file: "lifetimes/reclaim.cu",
    text: include_str!("reclaim.cu"),
    constants: |_, _| {
        vec![
            ("THREADS", RECLAIM_THREADS),
            ("CLEAR_THREADS", CLEAR_THREADS),
            ("CLEARED", CLEARED),
            ("SPAN_WORDS", StepStatus::SPAN_WORDS),
        ]
    },
    arguments: &[DeathRecord::LAYOUT, ReclaimArgs::LAYOUT, ClearArgs::LAYOUT],
};

const GROW_THREADS: usize = 512;
const CUT_THREADS: usize = 256;
const RECLAIM_THREADS: usize = 256;
const CLEAR_THREADS: usize = 64;
/// Cuts of one launch: they travel with its arguments.
const CUTS: usize = 16;
/// Slots that one launch clears.
const CLEARED: usize = 64;
/// Spans of a step that there is room to count for.
const MAX_SPANS: usize = 4096;

kernel_struct! {
    /// An end for the entries of part of a sequence, in all its lanes.
    #[derive(PartialEq, Eq, Pod, Zeroable)]
    pub struct PromptCut as PromptCut {
        /// The sequence's slot.
        pub slot: u32,
        /// First position that is cut.
        pub first: u32,
        /// Position behind the last that is cut.
        pub end: u32,
        /// Queries that see an entry at least, its own included, or 0: where that is later than `expires_at`, it ends then.
        pub recent: u32,
        /// First query that no longer sees these entries, unless they end earlier or their floor is higher.
        pub expires_at: u32,
        /// The query that decides so.
        pub killer: u32,
        /// First positions of a sequence that never expire.
        pub floor_sinks: u32,
        /// Newest entries that are always seen, the query's own included.
        pub floor_recent: u32,
    }
}

kernel_struct! {
    /// An entry that was freed.
    #[derive(PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
    pub struct DeathRecord as DeathRecord {
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
    specialisation: Specialisation,
}

kernel_struct! {
    struct GrowArgs as GrowArgs {
        lanes: LaneTables,
        spans: u64,
        first_pages: u64,
        units: u32,
        stride: u32,
    }
}

kernel_struct! {
    struct CutArgs as CutArgs {
        lanes: LaneTables,
        heads: u64,
        cuts: [PromptCut; CUTS],
    }
}

kernel_struct! {
    struct GatherArgs as GatherArgs {
        lanes: LaneTables,
        offsets: u64,
        positions: u64,
        expires_at: u64,
        first_lane: u32,
    }
}

kernel_struct! {
    struct ReclaimArgs as ReclaimArgs {
        lanes: LaneTables,
        spans: u64,
        status: u64,
        totals: u64,
        deaths: u64,
        death_count: u64,
        death_capacity: u32,
    }
}

kernel_struct! {
    struct ClearArgs as ClearArgs {
        lanes: LaneTables,
        slots: [u32; CLEARED],
    }
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
            specialisation: *specialisation,
        })
    }

    /// Every lane of the step's sequences becomes longer by its span's queries, and takes pages for them; the new
    /// entries are yet to be written. Then sets `first_pages` of every layer. A launch.
    ///
    /// Whoever asks has made sure that the pool has the pages. Lanes that it has too few for, or that would outgrow
    /// their tables, stay as they are, and [`DeviceLifetimes::reclaim`] tells how many: their sequences are damaged
    /// then, because other lanes of theirs have grown, and what the step appends lies on older entries. Nothing else is.
    ///
    /// The next launch must not be an early one: others look at lengths and tables before they wait.
    ///
    /// # Errors
    /// A step that is larger than its buffers, lanes of another kind.
    pub fn grow(&self, lanes: &DeviceLanes, step: &DeviceStep, size: StepSize) -> Result<(), KernelError> {
        self.check("grow", lanes, step, size)?;
        let argument = GrowArgs {
            lanes: lanes.tables(),
            spans: step.spans.pointer(),
            first_pages: step.first_pages.pointer(),
            units: (size.spans * self.specialisation.groups) as u32,
            stride: (step.max_spans * self.specialisation.groups + 1) as u32,
        };
        let grid = Grid::new(lanes.layers(), GROW_THREADS as u32).early();
        // SAFETY: the argument is the kernel's; the buffers are as large as just checked, tables as their maker says.
        Ok(unsafe { self.grow.launch(grid, &argument) }?)
    }

    /// Lowers the lifetimes of what the cuts say, in all lanes of their slots, or in those that a bit of `heads` names, u32
    /// `[layers][4]`. Cuts of one slot that meet must not come in one call. Launches.
    ///
    /// # Errors
    /// A slot that does not exist; heads of fewer layers.
    pub fn cut(
        &self,
        lanes: &DeviceLanes,
        cuts: &[PromptCut],
        heads: Option<&DeviceBuffer<u32>>,
    ) -> Result<(), KernelError> {
        lanes.check("cut", &self.specialisation)?;
        if let Some(heads) = heads {
            check_at_least("cut", "heads", 4 * lanes.layers(), heads.len())?;
        }
        let heads = heads.map_or(0, DeviceBuffer::pointer);
        check_slots("cut", lanes, cuts.iter().map(|cut| cut.slot))?;
        for some in cuts.chunks(CUTS) {
            let mut argument = CutArgs { lanes: lanes.tables(), heads, cuts: [PromptCut::zeroed(); CUTS] };
            argument.cuts[..some.len()].copy_from_slice(some);
            let grid =
                Grid::new(lanes.layers() * self.specialisation.groups, CUT_THREADS as u32).by(some.len());
            // SAFETY: the argument is the kernel's, and its slots exist.
            unsafe { self.cut.launch(grid, &argument) }?;
        }
        Ok(())
    }

    /// Frees, in every lane of the step's sequences, the entries that no query after the step's sees
    /// (`expires_at <= first_position + queries`). The last living entries fill the holes, in ascending order; pages
    /// that become empty go back to the pool. A launch.
    ///
    /// What is left is written to `status`, in the words of [`StepStatus`].
    ///
    /// # Errors
    /// A step that is larger than its buffers, too short a `status`.
    pub fn reclaim(
        &self,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        size: StepSize,
        died: Option<&Deaths>,
        status: &DeviceBuffer<u32>,
    ) -> Result<(), KernelError> {
        let op = "reclaim";
        self.check(op, lanes, step, size)?;
        check_at_least(op, "status", StepStatus::words(size.spans), status.len())?;
        if let Some(died) = died {
            check_at_least(op, "the number of deaths", 1, died.count.len())?;
        }
        let argument = ReclaimArgs {
            lanes: lanes.tables(),
            spans: step.spans.pointer(),
            status: status.pointer(),
            totals: self.totals.pointer(),
            deaths: died.map_or(0, |died| died.records.pointer()),
            death_count: died.map_or(0, |died| died.count.pointer()),
            death_capacity: died.map_or(0, |died| u32::try_from(died.records.len()).unwrap_or(u32::MAX)),
        };
        let grid = Grid::new(lanes.layers() * self.specialisation.groups, RECLAIM_THREADS as u32)
            .by(size.spans)
            .early();
        // SAFETY: as in `grow`.
        Ok(unsafe { self.reclaim.launch(grid, &argument) }?)
    }

    /// Forgets all entries of these slots; their pages are in the pool afterwards. Launches.
    ///
    /// # Errors
    /// A slot that does not exist.
    pub fn clear(&self, lanes: &DeviceLanes, slots: &[u32]) -> Result<(), KernelError> {
        lanes.check("clear", &self.specialisation)?;
        check_slots("clear", lanes, slots.iter().copied())?;
        for some in slots.chunks(CLEARED) {
            let mut argument = ClearArgs { lanes: lanes.tables(), slots: [0; CLEARED] };
            argument.slots[..some.len()].copy_from_slice(some);
            let grid =
                Grid::new(lanes.layers() * self.specialisation.groups, CLEAR_THREADS as u32).by(some.len());
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
        lanes.check("lifetimes", &self.specialisation)?;
        check_slots("lifetimes", lanes, [u32::try_from(slot).unwrap_or(u32::MAX)])?;
        let count = lanes.layers() * self.specialisation.groups;
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
        };
        // SAFETY: the argument is the kernel's; both targets hold what the lanes do, and live until `read` has waited.
        unsafe { self.gather.launch(Grid::new(count, CUT_THREADS as u32), &argument) }?;
        let (positions, expires_at) = (positions.read()?, expires_at.read()?);
        let ranges =
            offsets.iter().zip(lengths).map(|(&first, &length)| first as usize..(first + length) as usize);
        Ok(ranges.map(|range| (positions[range.clone()].to_vec(), expires_at[range].to_vec())).collect())
    }

    fn check(
        &self,
        op: &'static str,
        lanes: &DeviceLanes,
        step: &DeviceStep,
        size: StepSize,
    ) -> Result<(), KernelError> {
        lanes.check(op, &self.specialisation)?;
        let most = step.max_spans.min(step.spans.len()).min(MAX_SPANS);
        if size.spans > most {
            return Err(KernelError::Invalid {
                op,
                expected: format!("at most {most} spans"),
                got: size.spans.to_string(),
            });
        }
        let expected = lanes.layers() * (step.max_spans * self.specialisation.groups + 1);
        check_at_least(op, "first_pages", expected, step.first_pages.len())
    }
}

fn check_slots(
    op: &'static str,
    lanes: &DeviceLanes,
    slots: impl IntoIterator<Item = u32>,
) -> Result<(), KernelError> {
    match slots.into_iter().find(|&slot| slot as usize >= lanes.slots()) {
        Some(slot) => Err(KernelError::Invalid {
            op,
            expected: format!("slots below {}", lanes.slots()),
            got: slot.to_string(),
        }),
        None => Ok(()),
    }
}
