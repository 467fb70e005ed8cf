//! An entry goes to another slot, bit for bit.

use half::f16;

use super::{PAGE_ENTRIES, PageLayout, check_slots};
use crate::{Buffer, Elements, ElementsMut, KernelError};

impl PageLayout {
    /// Copies an entry, side channels included, from a slot of one page to a slot of another, bit for bit.
    ///
    /// Errors: pages of another layout, slots of 32 or more.
    pub fn copy_entry(
        &self,
        from: &Buffer,
        from_slot: usize,
        to: &mut Buffer,
        to_slot: usize,
    ) -> Result<(), KernelError> {
        let op = "copy entry";
        self.check_page(op, from)?;
        self.check_page(op, to)?;
        check_slots(op, from_slot, 1)?;
        check_slots(op, to_slot, 1)?;
        match (from.elements(), to.elements_mut()) {
            (Elements::F16(from), ElementsMut::F16(to)) if self.format.numbers().is_none() => {
                let (from, to): (&[u8], &mut [u8]) =
                    (bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
                self.each_byte_run(from_slot, to_slot, |a, b, n| {
                    to[b..b + n].copy_from_slice(&from[a..a + n])
                });
            }
            (Elements::F32(from), ElementsMut::F32(to)) => {
                self.each_run(from_slot, to_slot, |a, b, n| to[b..b + n].copy_from_slice(&from[a..a + n]));
            }
            (Elements::F16(from), ElementsMut::F16(to)) => {
                self.each_run(from_slot, to_slot, |a, b, n| to[b..b + n].copy_from_slice(&from[a..a + n]));
            }
            (Elements::Bf16(from), ElementsMut::Bf16(to)) => {
                self.each_run(from_slot, to_slot, |a, b, n| to[b..b + n].copy_from_slice(&from[a..a + n]));
            }
            // check_page held both to the layout's format.
            _ => {}
        }
        Ok(())
    }

    /// Copies an entry, side channels included, from one slot of a page to another, bit for bit.
    ///
    /// Errors: a page of another layout, slots of 32 or more.
    pub fn copy_entry_within(
        &self,
        page: &mut Buffer,
        from_slot: usize,
        to_slot: usize,
    ) -> Result<(), KernelError> {
        let op = "copy entry";
        self.check_page(op, page)?;
        check_slots(op, from_slot, 1)?;
        check_slots(op, to_slot, 1)?;
        match page.elements_mut() {
            ElementsMut::F16(all) if self.format.numbers().is_none() => {
                let all: &mut [u8] = bytemuck::cast_slice_mut(all);
                self.each_byte_run(from_slot, to_slot, |a, b, n| all.copy_within(a..a + n, b));
            }
            ElementsMut::F32(all) => {
                self.each_run(from_slot, to_slot, |a, b, n| all.copy_within(a..a + n, b));
            }
            ElementsMut::F16(all) => {
                self.each_run(from_slot, to_slot, |a, b, n| all.copy_within(a..a + n, b));
            }
            ElementsMut::Bf16(all) => {
                self.each_run(from_slot, to_slot, |a, b, n| all.copy_within(a..a + n, b));
            }
        }
        Ok(())
    }

    /// Calls `copy(from, to, length)` for every contiguous run of bytes of an entry in a page of codes.
    fn each_byte_run(&self, from_slot: usize, to_slot: usize, mut copy: impl FnMut(usize, usize, usize)) {
        let bytes = size_of::<f16>();
        let (Some(key), Some(value)) = (self.coded_keys(), self.coded_values()) else { return };
        for head in 0..self.heads {
            for (block, start) in [(key, self.key_offset(head)), (value, self.value_offset(head))] {
                block.each_run(from_slot, to_slot, |a, b, n| copy(start * bytes + a, start * bytes + b, n));
            }
        }
        self.each_side_run(from_slot, to_slot, |a, b, n| copy(a * bytes, b * bytes, n * bytes));
    }

    /// Calls `copy(from, to, length)` for every element of an entry's side channels.
    fn each_side_run(&self, from_slot: usize, to_slot: usize, mut copy: impl FnMut(usize, usize, usize)) {
        for (&start, &width) in self.side_offsets.iter().zip(&self.side_widths) {
            let places = (0..width).map(|k| start + k * PAGE_ENTRIES);
            places.for_each(|at| copy(at + from_slot, at + to_slot, 1));
        }
    }

    /// Calls `copy(from, to, length)` for every contiguous run of elements of an entry in a page of numbers.
    fn each_run(&self, from_slot: usize, to_slot: usize, mut copy: impl FnMut(usize, usize, usize)) {
        let d = self.head_dim;
        let panel_rows = |start: usize, rows: usize| (0..rows).map(move |k| start + k * PAGE_ENTRIES);
        panel_rows(0, self.heads * d).for_each(|at| copy(at + from_slot, at + to_slot, 1));
        for head in 0..self.heads {
            let start = self.value_offset(head);
            copy(start + from_slot * d, start + to_slot * d, d);
        }
        self.each_side_run(from_slot, to_slot, copy);
    }
}
