//! How one page of the KV cache lies in a [`Buffer`].
//!
//! Keys are dimension-major: for each head a panel `[d][32]` whose 32 entries are contiguous. The scores of 32
//! entries are then vertical multiply-adds without a horizontal sum, and the panel is also the right operand of a
//! matrix product. Values follow as `[32][d]` per head, which is what the weighted sum reads. Each side channel is
//! a panel `[width][32]`, for the same reason as the keys.
//!
//! | elements | from |
//! |---|---|
//! | `heads` key panels `[d][32]` | 0 |
//! | `heads` value blocks `[32][d]` | `32 * heads * d` |
//! | one panel `[width][32]` per side channel | `64 * heads * d` + the panels before |
//!
//! Every offset is a multiple of 32 elements, so in an aligned buffer every panel row is aligned to 64 bytes.

mod rows;

use std::ops::Range;

use half::{bf16, f16};

use crate::error::{check_length, checked_size};
use crate::{Buffer, DType, Elements, ElementsMut, KernelError};

/// Entries of one page.
pub const PAGE_ENTRIES: usize = 32;

/// Where keys, values and side channels of 32 entries lie inside one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageLayout {
    heads: usize,
    head_dim: usize,
    side_widths: Vec<usize>,
    side_offsets: Vec<usize>,
    dtype: DType,
    elements: usize,
}

impl PageLayout {
    /// The layout of pages whose entries hold a key and a value of `head_dim` elements for each of `heads` KV
    /// heads (g, or 1 where every head has a lane of its own) and one row per side channel.
    ///
    /// Errors: no heads, no dimensions, a side channel of width 0, or more elements than can be addressed.
    pub fn new(
        heads: usize,
        head_dim: usize,
        side_widths: Vec<usize>,
        dtype: DType,
    ) -> Result<Self, KernelError> {
        let op = "page layout";
        if heads == 0 || head_dim == 0 || side_widths.contains(&0) {
            return Err(KernelError::Invalid {
                op,
                expected: "at least 1 head, 1 dimension and side channels at least 1 wide".to_owned(),
                got: format!("{heads} heads, {head_dim} dimensions, side channels {side_widths:?}"),
            });
        }
        let mut elements = checked_size(op, &[2, PAGE_ENTRIES, heads, head_dim])?;
        let mut side_offsets = Vec::with_capacity(side_widths.len());
        for &width in &side_widths {
            side_offsets.push(elements);
            let panel = checked_size(op, &[width, PAGE_ENTRIES])?;
            elements = elements.checked_add(panel).ok_or_else(|| too_large(op, elements, panel))?;
        }
        // One bound for every later size: bytes of a page fit an isize, as the allocator wants.
        let bytes = checked_size(op, &[elements, dtype.bytes()])?;
        if isize::try_from(bytes).is_err() {
            return Err(too_large(op, bytes, 0));
        }
        Ok(Self { heads, head_dim, side_widths, side_offsets, dtype, elements })
    }

    /// KV heads that an entry holds.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Elements of one head's key or value, d.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Elements of one entry's row in each side channel.
    pub fn side_widths(&self) -> &[usize] {
        &self.side_widths
    }

    /// The format of keys, values and side channels.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Elements of one page.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Bytes of one page.
    pub fn bytes(&self) -> usize {
        self.elements * self.dtype.bytes()
    }

    /// Bytes of one entry: its keys, values and side channels.
    pub fn entry_bytes(&self) -> usize {
        self.bytes() / PAGE_ENTRIES
    }

    /// A zeroed page of this layout, or [`KernelError::TooLarge`] when there is no such memory.
    pub fn zeroed_page(&self) -> Result<Buffer, KernelError> {
        Buffer::try_zeroed(self.dtype, self.elements)
    }

    /// First element of `head`'s key panel `[d][32]`. Meaningful for heads below [`PageLayout::heads`].
    pub fn key_offset(&self, head: usize) -> usize {
        head.wrapping_mul(PAGE_ENTRIES * self.head_dim)
    }

    /// First element of `head`'s values `[32][d]`. Meaningful for heads below [`PageLayout::heads`].
    pub fn value_offset(&self, head: usize) -> usize {
        self.heads.wrapping_add(head).wrapping_mul(PAGE_ENTRIES * self.head_dim)
    }

    /// First element of `channel`'s panel `[width][32]`, if there is such a channel.
    pub fn side_offset(&self, channel: usize) -> Option<usize> {
        self.side_offsets.get(channel).copied()
    }

    /// Writes one entry's key and value, each `[heads * d]`, rounded to the page's dtype.
    ///
    /// Errors: a page of another layout, a slot of 32 or more, rows of another length.
    pub fn write_key_value(
        &self,
        page: &mut Buffer,
        slot: usize,
        key: &[f32],
        value: &[f32],
    ) -> Result<(), KernelError> {
        let row = self.heads * self.head_dim;
        check_length("write key and value", "key", row, key.len())?;
        check_length("write key and value", "value", row, value.len())?;
        self.write_keys_values(page, slot, 1, key, value, row)
    }

    /// Writes `count` entries into `slot..slot + count`: row i of `keys` and of `values` begins at `i * stride`
    /// and is `heads * d` wide. One call per page is several times faster than one per entry.
    ///
    /// Errors: a page of another layout, slots beyond the page, a stride below a row, rows that are not there.
    pub fn write_keys_values(
        &self,
        page: &mut Buffer,
        slot: usize,
        count: usize,
        keys: &[f32],
        values: &[f32],
        stride: usize,
    ) -> Result<(), KernelError> {
        let op = "write keys and values";
        self.check_page(op, page)?;
        let slots = check_slots(op, slot, count)?;
        let row = self.heads * self.head_dim;
        check_rows(op, "keys", count, row, stride, keys.len())?;
        check_rows(op, "values", count, row, stride, values.len())?;
        match page.elements_mut() {
            ElementsMut::F32(all) => self.store(all, slots, keys, values, stride, |x| x),
            ElementsMut::F16(all) => self.store(all, slots, keys, values, stride, f16::from_f32),
            ElementsMut::Bf16(all) => self.store(all, slots, keys, values, stride, bf16::from_f32),
        }
        Ok(())
    }

    /// Writes one entry's row `[width]` of a side channel, rounded to the page's dtype.
    ///
    /// Errors: a page of another layout, a slot of 32 or more, no such channel, a row of another length.
    pub fn write_side(
        &self,
        page: &mut Buffer,
        slot: usize,
        channel: usize,
        row: &[f32],
    ) -> Result<(), KernelError> {
        let op = "write side channel";
        self.check_page(op, page)?;
        check_slots(op, slot, 1)?;
        let (start, width) = self.side(op, channel)?;
        check_length(op, "row", width, row.len())?;
        row.iter().enumerate().for_each(|(k, &x)| page.set(start + k * PAGE_ENTRIES + slot, x));
        Ok(())
    }

    /// One entry's key for one head `[d]`, widened; errors as in [`PageLayout::read_value`].
    pub fn read_key(&self, page: &Buffer, slot: usize, head: usize) -> Result<Vec<f32>, KernelError> {
        self.check_read(page, slot, head)?;
        let start = self.key_offset(head) + slot;
        Ok((0..self.head_dim).map(|k| page.get(start + k * PAGE_ENTRIES)).collect())
    }

    /// One entry's value for one head `[d]`, widened.
    ///
    /// Errors: a page of another layout, a slot of 32 or more, no such head.
    pub fn read_value(&self, page: &Buffer, slot: usize, head: usize) -> Result<Vec<f32>, KernelError> {
        self.check_read(page, slot, head)?;
        let start = self.value_offset(head) + slot * self.head_dim;
        Ok((start..start + self.head_dim).map(|i| page.get(i)).collect())
    }

    /// One entry's row of a side channel `[width]`, widened.
    ///
    /// Errors: a page of another layout, a slot of 32 or more, no such channel.
    pub fn read_side(&self, page: &Buffer, slot: usize, channel: usize) -> Result<Vec<f32>, KernelError> {
        let op = "read side channel";
        self.check_page(op, page)?;
        check_slots(op, slot, 1)?;
        let (start, width) = self.side(op, channel)?;
        Ok((0..width).map(|k| page.get(start + k * PAGE_ENTRIES + slot)).collect())
    }

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
            (Elements::F32(from), ElementsMut::F32(to)) => {
                self.each_run(from_slot, to_slot, |a, b, n| to[b..b + n].copy_from_slice(&from[a..a + n]));
            }
            (Elements::F16(from), ElementsMut::F16(to)) => {
                self.each_run(from_slot, to_slot, |a, b, n| to[b..b + n].copy_from_slice(&from[a..a + n]));
            }
            (Elements::Bf16(from), ElementsMut::Bf16(to)) => {
                self.each_run(from_slot, to_slot, |a, b, n| to[b..b + n].copy_from_slice(&from[a..a + n]));
            }
            // check_page held both to the layout's dtype.
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

    /// Refuses a buffer that is not a page of this layout.
    pub(crate) fn check_page(&self, op: &'static str, page: &Buffer) -> Result<(), KernelError> {
        if page.dtype() == self.dtype && page.len() == self.elements {
            return Ok(());
        }
        Err(KernelError::Invalid {
            op,
            expected: format!("a page of {} elements of {}", self.elements, self.dtype),
            got: format!("{} elements of {}", page.len(), page.dtype()),
        })
    }

    /// Offset and width of a side channel.
    pub(crate) fn side(&self, op: &'static str, channel: usize) -> Result<(usize, usize), KernelError> {
        match (self.side_offsets.get(channel), self.side_widths.get(channel)) {
            (Some(&offset), Some(&width)) => Ok((offset, width)),
            _ => Err(KernelError::Invalid {
                op,
                expected: format!("a side channel below {}", self.side_widths.len()),
                got: channel.to_string(),
            }),
        }
    }

    fn check_read(&self, page: &Buffer, slot: usize, head: usize) -> Result<(), KernelError> {
        let op = "read entry";
        self.check_page(op, page)?;
        check_slots(op, slot, 1)?;
        if head < self.heads {
            return Ok(());
        }
        Err(KernelError::Invalid {
            op,
            expected: format!("a head below {}", self.heads),
            got: head.to_string(),
        })
    }

    fn store<T: Copy>(
        &self,
        all: &mut [T],
        slots: Range<usize>,
        keys: &[f32],
        values: &[f32],
        stride: usize,
        round: impl Fn(f32) -> T,
    ) {
        let d = self.head_dim;
        let (key_panels, rest) = all.split_at_mut(self.heads * d * PAGE_ENTRIES);
        // A key panel of all heads together is [heads * d][32], and so is the row of `keys`: no loop over heads.
        for (k, panel_row) in key_panels.chunks_exact_mut(PAGE_ENTRIES).enumerate() {
            for (i, element) in panel_row[slots.clone()].iter_mut().enumerate() {
                *element = round(keys[i * stride + k]);
            }
        }
        for (head, block) in rest.chunks_exact_mut(d * PAGE_ENTRIES).take(self.heads).enumerate() {
            let targets = block.chunks_exact_mut(d).skip(slots.start).take(slots.len());
            for (i, target) in targets.enumerate() {
                let row = &values[i * stride + head * d..][..d];
                target.iter_mut().zip(row).for_each(|(element, &x)| *element = round(x));
            }
        }
    }

    /// Calls `copy(from, to, length)` for every contiguous run of elements of an entry.
    fn each_run(&self, from_slot: usize, to_slot: usize, mut copy: impl FnMut(usize, usize, usize)) {
        let d = self.head_dim;
        let panel_rows = |start: usize, rows: usize| (0..rows).map(move |k| start + k * PAGE_ENTRIES);
        panel_rows(0, self.heads * d).for_each(|at| copy(at + from_slot, at + to_slot, 1));
        for head in 0..self.heads {
            let start = self.value_offset(head);
            copy(start + from_slot * d, start + to_slot * d, d);
        }
        for (&start, &width) in self.side_offsets.iter().zip(&self.side_widths) {
            panel_rows(start, width).for_each(|at| copy(at + from_slot, at + to_slot, 1));
        }
    }
}

fn too_large(op: &'static str, size: usize, more: usize) -> KernelError {
    KernelError::TooLarge {
        op,
        expected: format!("a page of at most {} bytes", isize::MAX),
        got: format!("{size} + {more}"),
    }
}

fn check_slots(op: &'static str, slot: usize, count: usize) -> Result<Range<usize>, KernelError> {
    match slot.checked_add(count) {
        Some(end) if end <= PAGE_ENTRIES && slot < PAGE_ENTRIES => Ok(slot..end),
        _ => Err(KernelError::Invalid {
            op,
            expected: format!("slots below {PAGE_ENTRIES}"),
            got: format!("{count} from slot {slot}"),
        }),
    }
}

/// Refuses `count` rows of `row` elements, `stride` apart, that overlap or reach beyond `len` elements.
fn check_rows(
    op: &'static str,
    what: &'static str,
    count: usize,
    row: usize,
    stride: usize,
    len: usize,
) -> Result<(), KernelError> {
    if count == 0 {
        return Ok(());
    }
    if stride < row {
        return Err(KernelError::Invalid {
            op,
            expected: format!("a stride of at least {row}"),
            got: stride.to_string(),
        });
    }
    let expected = checked_size(op, &[count - 1, stride])?.saturating_add(row);
    if len < expected {
        return Err(KernelError::Length { op, what, expected, got: len });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
