//! What one slot holds, given to another: as it is, or as a copy.

use super::DeviceLanes;
use crate::cuda::DeviceSlice;
use crate::{KernelError, PAGE_ENTRIES};

impl DeviceLanes {
    /// Gives what a slot holds to one that holds nothing, and leaves the first without; waits for the device. No page is
    /// touched.
    ///
    /// # Errors
    /// A slot that does not exist, a target with entries, a failed device.
    pub fn move_slot(&self, from: usize, to: usize) -> Result<(), KernelError> {
        let lengths = self.lengths_for("move_slot", from, to)?;
        let (per, row) = (lengths.len(), lengths.len() * self.max_pages);
        let tables = DeviceSlice::new(&self.tables, from * row..(from + 1) * row)?;
        self.tables.copy_from(to * row, tables)?;
        self.lengths.write(to * per, &lengths)?;
        Ok(self.lengths.write(from * per, &vec![0; per])?)
    }

    /// Gives a slot that holds nothing a copy of the first `entries` entries of each of another's lanes, in pages from the
    /// pool, and tells how many; waits for the device.
    ///
    /// # Errors
    /// A slot that does not exist, a target with entries, too few free pages, a failed device.
    pub fn copy_slot(&self, from: usize, to: usize, entries: u32) -> Result<usize, KernelError> {
        let lengths = self.lengths_for("copy_slot", from, to)?;
        let lengths: Vec<u32> = lengths.iter().map(|&length| length.min(entries)).collect();
        let held = |length: u32| (length as usize).div_ceil(PAGE_ENTRIES);
        let (count, free) = (lengths.iter().map(|&length| held(length)).sum::<usize>(), self.free_pages()?);
        if count > free {
            let (expected, got) = (format!("{count} free pages"), format!("{free}"));
            return Err(KernelError::Invalid { op: "copy_slot", expected, got });
        }
        let (per, row) = (lengths.len(), lengths.len() * self.max_pages);
        let sources = self.tables.read_range(from * row, row)?;
        // The top of the stack.
        let taken = self.free.read_range(free - count, count)?;
        let mut targets = vec![0; row];
        let mut next = taken.iter();
        let bytes = self.specialisation.page_bytes();
        for (lane, &length) in lengths.iter().enumerate() {
            let places = lane * self.max_pages..lane * self.max_pages + held(length);
            for ((target, &source), &page) in
                targets[places.clone()].iter_mut().zip(&sources[places]).zip(&mut next)
            {
                *target = page;
                let source = source as usize * bytes;
                let source = DeviceSlice::new(&self.pages, source..source + bytes)?;
                self.pages.copy_from(page as usize * bytes, source)?;
            }
        }
        self.tables.write(to * row, &targets)?;
        self.lengths.write(to * per, &lengths)?;
        // As many as the capacity, which fits.
        self.pool.write(0, &[(free - count) as u32, 0, 0])?;
        Ok(count)
    }

    /// The lengths of a slot's lanes, once it is sure that another's can take them.
    fn lengths_for(&self, op: &'static str, from: usize, to: usize) -> Result<Vec<u32>, KernelError> {
        let per = self.layers * self.specialisation.groups;
        if let Some(slot) = [from, to].into_iter().find(|&slot| slot >= self.slots) {
            let (expected, got) = (format!("a slot below {}", self.slots), format!("{slot}"));
            return Err(KernelError::Invalid { op, expected, got });
        }
        if self.lengths.read_range(to * per, per)?.iter().any(|&length| length > 0) {
            let (expected, got) = ("a slot without entries".to_owned(), format!("slot {to}"));
            return Err(KernelError::Invalid { op, expected, got });
        }
        Ok(self.lengths.read_range(from * per, per)?)
    }
}
