//! The lanes of all sequences as the device holds them; their verbs are in the folders of the operations.

mod copies;

use bytemuck::{Pod, Zeroable};

use super::{Argument, CudaError, Device, DeviceBuffer, Layout, Specialisation, kernel_struct, page_map};
use crate::KernelError;
use crate::lifetimes::Floors;

kernel_struct! {
    /// Addresses on the device, passed to kernels by value; good for as long as the lanes live.
    pub struct LaneTables as Lanes {
        pages: u64,
        tables: u64,
        lengths: u64,
        free: u64,
        pool: u64,
        overflows: u64,
        layers: u32,
        max_pages: u32,
        slots: u32,
        capacity: u32,
    }
}

kernel_struct! {
    /// One new token of a step.
    #[derive(PartialEq, Eq, Pod, Zeroable)]
    pub struct Row as Row {
        /// Its sequence's slot; `u32::MAX` for padding, which every kernel passes over.
        pub slot: u32,
        /// The token.
        pub token: u32,
        /// Its position.
        pub position: u32,
        /// Its entry is the `back`-th from the end of its lanes, once they have grown: the last one has 1. Of a token of a prompt
        /// [`Row::IN_PROMPT`] is set too.
        pub back: u32,
    }
}

impl Row {
    /// The bit of [`Row::back`] that tells a prompt's tokens from those behind it.
    pub const IN_PROMPT: u32 = 1 << 31;
}

kernel_struct! {
    /// The rows of one sequence in a step.
    #[derive(PartialEq, Eq, Pod, Zeroable)]
    pub struct DeviceSpan as Span {
        /// The sequence's slot; `u32::MAX` for padding.
        pub slot: u32,
        /// Row of its first new token.
        pub first_row: u32,
        /// New tokens.
        pub queries: u32,
        /// Position of the first.
        pub first_position: u32,
    }
}

/// What every kernel file knows.
pub(super) const SHARED_LAYOUTS: [Layout; 4] =
    [LaneTables::LAYOUT, Row::LAYOUT, DeviceSpan::LAYOUT, Floors::LAYOUT];

/// Pages of one pool on a device, and the lanes of `slots` sequences that share it.
///
/// Lane (slot, layer, group) is number `(slot * layers + layer) * groups + group`.
#[derive(Debug)]
pub struct DeviceLanes {
    pages: DeviceBuffer<u8>,
    /// What the copy engine knows of them, where it can be used.
    page_map: Option<DeviceBuffer<u64>>,
    tables: DeviceBuffer<u32>,
    lengths: DeviceBuffer<u32>,
    free: DeviceBuffer<u32>,
    /// `Pool` of `prelude.cuh`.
    pool: DeviceBuffer<u32>,
    /// The first number of each slot that its pages could not hold, as `rope/append.cu` writes it.
    overflows: DeviceBuffer<u64>,
    layers: usize,
    max_pages: usize,
    slots: usize,
    specialisation: Specialisation,
}

impl DeviceLanes {
    /// Empty lanes over a pool of `capacity` pages; a lane holds at most `max_entries` entries.
    ///
    /// # Errors
    /// No such memory on the device.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        layers: usize,
        slots: usize,
        max_entries: usize,
        capacity: usize,
    ) -> Result<Self, CudaError> {
        let max_pages = max_entries.div_ceil(crate::PAGE_ENTRIES);
        let lanes = slots * layers * specialisation.groups;
        let numbers: Vec<u32> = (0..capacity as u32).collect();
        // Zeros, because kernels read whole pages and leave out what is no entry: nothing can depend on who had the
        // memory before. All of an H200 takes 40 ms.
        let bytes = capacity * specialisation.page_bytes();
        let pages = DeviceBuffer::zeroed(device, "the pages of the KV cache", bytes)?;
        Ok(Self {
            page_map: page_map::of_pages(device, specialisation, &pages)?,
            pages,
            tables: DeviceBuffer::zeroed(device, "page tables", lanes * max_pages)?,
            lengths: DeviceBuffer::zeroed(device, "the lengths of lanes", lanes)?,
            free: DeviceBuffer::copy_of(device, "the list of free pages", &numbers)?,
            pool: DeviceBuffer::copy_of(device, "the number of free pages", &[capacity as u32, 0, 0])?,
            overflows: DeviceBuffer::copy_of(device, "what pages could not hold", &vec![u64::MAX; slots])?,
            layers,
            max_pages,
            slots,
            specialisation: *specialisation,
        })
    }

    /// What kernels take, to be used at once: see [`Function::launch`](super::Function::launch).
    #[must_use]
    pub fn tables(&self) -> LaneTables {
        LaneTables {
            pages: self.pages.pointer(),
            tables: self.tables.pointer(),
            lengths: self.lengths.pointer(),
            free: self.free.pointer(),
            pool: self.pool.pointer(),
            overflows: self.overflows.pointer(),
            layers: self.layers as u32,
            max_pages: self.max_pages as u32,
            slots: self.slots as u32,
            capacity: self.free.len() as u32,
        }
    }

    /// Where the map of all pages lies, for kernels that use the copy engine; 0 where there is none.
    pub(crate) fn page_map(&self) -> u64 {
        self.page_map.as_ref().map_or(0, DeviceBuffer::pointer)
    }

    /// Refuses kernels that were made for lanes of another kind.
    pub(crate) fn check(&self, op: &'static str, made_for: &Specialisation) -> Result<(), KernelError> {
        let kind = |of: &Specialisation| {
            (of.format(), of.kv_heads, of.groups, of.head_dim, of.side_width, of.statistics)
        };
        if kind(&self.specialisation) == kind(made_for) {
            return Ok(());
        }
        let words = |of: &Specialisation| {
            let (cache, heads, groups, width, side, statistics) = kind(of);
            format!(
                "lanes of {cache}, {heads} KV heads in {groups} groups, {width} wide, beside {side} gates and {statistics} sums"
            )
        };
        Err(KernelError::Invalid { op, expected: words(made_for), got: words(&self.specialisation) })
    }

    /// What the pages were laid out for.
    #[must_use]
    pub fn specialisation(&self) -> &Specialisation {
        &self.specialisation
    }

    /// Layers of each sequence.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Sequences that there is room for.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Pages of the pool.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.free.len()
    }

    /// Pages that no lane holds; waits for the device.
    ///
    /// # Errors
    /// A failed device.
    pub fn free_pages(&self) -> Result<usize, CudaError> {
        let pool = self.pool.read()?;
        Ok(pool[0].wrapping_add(pool[1]) as usize)
    }

    /// Live entries of every lane; waits for the device.
    ///
    /// # Errors
    /// A failed device.
    pub fn lengths(&self) -> Result<Vec<u32>, CudaError> {
        self.lengths.read()
    }

    /// One lane as it lies: the bytes of its pages in order; waits for the device. For inspection and tests.
    ///
    /// # Errors
    /// A failed device.
    pub fn read_lane(&self, lane: usize) -> Result<(u32, Vec<u8>), CudaError> {
        let length = self.lengths.read_range(lane, 1)?.first().copied().unwrap_or(0);
        let count = (length as usize).div_ceil(crate::PAGE_ENTRIES);
        let bytes = self.specialisation.page_bytes();
        let mut pages = Vec::with_capacity(count * bytes);
        for page in self.tables.read_range(lane * self.max_pages, count)? {
            pages.extend(self.pages.read_range(page as usize * bytes, bytes)?);
        }
        Ok((length, pages))
    }

    /// Sets a lane to given pages, which are taken from the pool; waits for the device. For tests.
    ///
    /// # Errors
    /// A failed device.
    ///
    /// # Panics
    /// Too few free pages, or a lane that is not empty.
    pub fn write_lane(&self, lane: usize, length: u32, pages: &[u8]) -> Result<(), CudaError> {
        let bytes = self.specialisation.page_bytes();
        let count = pages.len() / bytes;
        let free = self.free_pages()?;
        assert!(count <= free && self.lengths.read_range(lane, 1)? == [0], "a lane that cannot be set");
        let taken = self.free.read_range(free - count, count)?;
        for (page, contents) in taken.iter().zip(pages.chunks_exact(bytes)) {
            self.pages.write(*page as usize * bytes, contents)?;
        }
        self.tables.write(lane * self.max_pages, &taken)?;
        self.lengths.write(lane, &[length])?;
        self.pool.write(0, &[(free - count) as u32, 0, 0])
    }

    /// Lets whatever is appended without being written never end; all lanes are empty. For tests.
    #[cfg(test)]
    pub(crate) fn make_endless(&self) {
        self.pages.fill_bytes(0xff).unwrap();
    }

    /// The numbers of the free pages, and of the pages of each lane. For tests.
    #[cfg(test)]
    pub(crate) fn page_numbers(&self) -> (Vec<u32>, Vec<Vec<u32>>) {
        let free = self.free.read_range(0, self.free_pages().unwrap()).unwrap();
        let tables = self.tables.read().unwrap();
        let lengths = self.lengths().unwrap();
        let tables = tables.chunks(self.max_pages).zip(lengths);
        let held = |(table, length): (&[u32], u32)| table[..(length as usize).div_ceil(32)].to_vec();
        (free, tables.map(held).collect())
    }
}
