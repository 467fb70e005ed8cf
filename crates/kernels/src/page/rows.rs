//! Rows of several entries of a page at once.

use std::ops::Range;

use super::{CodedBlock, PageLayout};
use crate::buffer::{Elements, ElementsMut};
use crate::error::check_length;
use crate::{Buffer, KernelError, PAGE_ENTRIES};

impl PageLayout {
    /// Keys of some entries of one head, widened: appends f32 `[slots, d]` to `rows`. One call per page spares a look
    /// at the format for each.
    ///
    /// Errors: as [`PageLayout::read_value`]; then nothing was appended.
    pub fn read_keys(
        &self,
        page: &Buffer,
        slots: &[usize],
        head: usize,
        rows: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        slots.iter().try_for_each(|&slot| self.check_read(page, slot, head))?;
        if let Some(keys) = self.coded_keys() {
            decode(page, keys, self.key_range(head), slots, rows);
            return Ok(());
        }
        let start = self.key_offset(head);
        let places = |slot: usize| (0..self.head_dim).map(move |k| start + k * PAGE_ENTRIES + slot);
        widen(page, slots.iter().flat_map(|&slot| places(slot)), rows);
        Ok(())
    }

    /// Values of some entries of one head, widened: appends f32 `[slots, d]` to `rows`.
    ///
    /// Errors: as [`PageLayout::read_keys`].
    pub fn read_values(
        &self,
        page: &Buffer,
        slots: &[usize],
        head: usize,
        rows: &mut Vec<f32>,
    ) -> Result<(), KernelError> {
        slots.iter().try_for_each(|&slot| self.check_read(page, slot, head))?;
        if let Some(values) = self.coded_values() {
            decode(page, values, self.value_range(head), slots, rows);
            return Ok(());
        }
        let start = self.value_offset(head);
        let row = |slot: usize| start + slot * self.head_dim..start + (slot + 1) * self.head_dim;
        widen(page, slots.iter().flat_map(|&slot| row(slot)), rows);
        Ok(())
    }

    /// Writes one entry's key for one head `[d]`, rounded to the page's format.
    ///
    /// Errors: as [`PageLayout::read_value`]; a key of another length.
    pub fn write_key(
        &self,
        page: &mut Buffer,
        slot: usize,
        head: usize,
        key: &[f32],
    ) -> Result<(), KernelError> {
        self.check_read(page, slot, head)?;
        check_length("write key", "key", self.head_dim, key.len())?;
        if let (Some(keys), ElementsMut::F16(all)) = (self.coded_keys(), page.elements_mut()) {
            keys.write(&mut all[self.key_range(head)], slot, key);
            return Ok(());
        }
        let start = self.key_offset(head) + slot;
        key.iter().enumerate().for_each(|(k, &x)| page.set(start + k * PAGE_ENTRIES, x));
        Ok(())
    }
}

/// Appends what the codes of some entries stand for, from a block of a page.
fn decode(page: &Buffer, block: CodedBlock, place: Range<usize>, slots: &[usize], rows: &mut Vec<f32>) {
    // A page of codes is made of f16; check_page held it to that.
    if let Elements::F16(all) = page.elements() {
        let codes = &all[place];
        rows.extend(
            slots.iter().flat_map(|&slot| (0..block.head_dim).map(move |k| block.number(codes, slot, k))),
        );
    }
}

/// Appends the elements of a page at some places, widened.
fn widen(page: &Buffer, places: impl Iterator<Item = usize>, rows: &mut Vec<f32>) {
    match page.elements() {
        Elements::F32(all) => rows.extend(places.map(|place| all[place])),
        Elements::F16(all) => rows.extend(places.map(|place| all[place].to_f32())),
        Elements::Bf16(all) => rows.extend(places.map(|place| all[place].to_f32())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvFormat;

    #[test]
    fn rows_of_several_entries_are_those_of_each_and_a_written_key_is_read_back() {
        for format in KvFormat::ALL {
            let (heads, width) = (3, 5);
            let layout = PageLayout::new(heads, width, vec![2], format).unwrap();
            let mut page = layout.zeroed_page().unwrap();
            let numbers: Vec<f32> =
                (0..PAGE_ENTRIES * heads * width).map(|i| i as f32 / 8.0 - 20.0).collect();
            layout.write_keys_values(&mut page, 0, PAGE_ENTRIES, &numbers, &numbers, heads * width).unwrap();
            layout.write_key(&mut page, 7, 1, &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
            // Codes stand for less than half a step of 4 / 255 beside it.
            let allowed = if format.numbers().is_some() { 0.0 } else { 0.008 };
            let written = layout.read_key(&page, 7, 1).unwrap();
            assert!(written.iter().zip(1u8..).all(|(x, want)| (x - f32::from(want)).abs() <= allowed));
            let slots = [31, 7, 0, 8];
            for head in 0..heads {
                let (mut keys, mut values) = (vec![9.0], vec![9.0]);
                layout.read_keys(&page, &slots, head, &mut keys).unwrap();
                layout.read_values(&page, &slots, head, &mut values).unwrap();
                for (i, &slot) in slots.iter().enumerate() {
                    let row = 1 + i * width..1 + (i + 1) * width;
                    assert_eq!(keys[row.clone()], layout.read_key(&page, slot, head).unwrap());
                    assert_eq!(values[row], layout.read_value(&page, slot, head).unwrap());
                }
            }
            let mut rows = Vec::new();
            assert!(layout.read_keys(&page, &[0, PAGE_ENTRIES], 0, &mut rows).is_err() && rows.is_empty());
            assert!(layout.read_values(&page, &[0], heads, &mut rows).is_err());
            assert!(layout.write_key(&mut page, 0, 0, &[0.0; 4]).is_err());
        }
    }
}
