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
//!
//! That is a page of numbers. In a page of codes the blocks of keys and values are shorter (`page/coded.rs`), and everything else is the same:
//! a layout says of each head where its block begins and how many elements it has, and nobody else counts.

mod coded;
mod codes;
mod format;
mod moves;
mod rows;

use std::ops::Range;

use half::{bf16, f16};

use crate::error::{check_length, checked_size};
use crate::{Buffer, DType, ElementsMut, KernelError};
pub(crate) use coded::{CodedBlock, Lie, STEPS};
pub(crate) use codes::{LINE, line_bytes};
pub use format::{CodeBits, KvFormat, RowFormat};

/// Entries of one page.
pub const PAGE_ENTRIES: usize = 32;

/// Where keys, values and side channels of 32 entries lie inside one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageLayout {
    heads: usize,
    head_dim: usize,
    side_widths: Vec<usize>,
    side_offsets: Vec<usize>,
    format: KvFormat,
    /// Elements of one head's keys.
    key_block: usize,
    /// Elements of one head's values.
    value_block: usize,
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
        format: impl Into<KvFormat>,
    ) -> Result<Self, KernelError> {
        let (op, format) = ("page layout", format.into());
        if heads == 0 || head_dim == 0 || side_widths.contains(&0) {
            return Err(KernelError::Invalid {
                op,
                expected: "at least 1 head, 1 dimension and side channels at least 1 wide".to_owned(),
                got: format!("{heads} heads, {head_dim} dimensions, side channels {side_widths:?}"),
            });
        }
        // No block of codes is larger than the numbers of twice as many whole groups, so nothing below overflows.
        checked_size(op, &[8, PAGE_ENTRIES, heads, head_dim.saturating_add(CodeBits::Eight.group())])?;
        let block = |rows: RowFormat, lie: Lie| match rows {
            RowFormat::Numbers(_) => PAGE_ENTRIES * head_dim,
            RowFormat::Codes(bits) => CodedBlock { bits, head_dim, lie }.elements(),
        };
        let (key_block, value_block) = (block(format.keys(), Lie::Panel), block(format.values(), Lie::Rows));
        let mut elements = heads * (key_block + value_block);
        let mut side_offsets = Vec::with_capacity(side_widths.len());
        for &width in &side_widths {
            side_offsets.push(elements);
            let panel = checked_size(op, &[width, PAGE_ENTRIES])?;
            elements = elements.checked_add(panel).ok_or_else(|| too_large(op, elements, panel))?;
        }
        // One bound for every later size: bytes of a page fit an isize, as the allocator wants.
        let bytes = checked_size(op, &[elements, format.elements().bytes()])?;
        if isize::try_from(bytes).is_err() {
            return Err(too_large(op, bytes, 0));
        }
        Ok(Self { heads, head_dim, side_widths, side_offsets, format, key_block, value_block, elements })
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

    /// How keys, values and side channels are stored.
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// The format of side channels, and of a page's elements.
    pub fn side_dtype(&self) -> DType {
        self.format.elements()
    }

    /// Elements of one page.
    pub fn elements(&self) -> usize {
        self.elements
    }

    /// Bytes of one page.
    pub fn bytes(&self) -> usize {
        self.elements * self.side_dtype().bytes()
    }

    /// Bytes of one entry: its keys, values and side channels.
    pub fn entry_bytes(&self) -> usize {
        self.bytes() / PAGE_ENTRIES
    }

    /// Bytes of the keys and values of one entry.
    pub fn key_value_bytes(&self) -> usize {
        self.heads * (self.key_block + self.value_block) * self.side_dtype().bytes() / PAGE_ENTRIES
    }

    /// A zeroed page of this layout, or [`KernelError::TooLarge`] when there is no such memory.
    pub fn zeroed_page(&self) -> Result<Buffer, KernelError> {
        Buffer::try_zeroed(self.side_dtype(), self.elements)
    }

    /// First element of `head`'s keys: a panel `[d][32]`, or its codes. Meaningful for heads below [`PageLayout::heads`].
    pub fn key_offset(&self, head: usize) -> usize {
        head.wrapping_mul(self.key_block)
    }

    /// First element of `head`'s values: `[32][d]`, or their codes. Meaningful for heads below [`PageLayout::heads`].
    pub fn value_offset(&self, head: usize) -> usize {
        self.heads.wrapping_mul(self.key_block).wrapping_add(head.wrapping_mul(self.value_block))
    }

    /// The elements of `head`'s keys.
    pub(crate) fn key_range(&self, head: usize) -> Range<usize> {
        let start = self.key_offset(head);
        start..start.wrapping_add(self.key_block)
    }

    /// The elements of `head`'s values.
    pub(crate) fn value_range(&self, head: usize) -> Range<usize> {
        let start = self.value_offset(head);
        start..start.wrapping_add(self.value_block)
    }

    /// How the keys of a head lie where they are codes.
    pub(crate) fn coded_keys(&self) -> Option<CodedBlock> {
        self.coded(self.format.keys(), Lie::Panel)
    }

    /// How the values of a head lie where they are codes.
    pub(crate) fn coded_values(&self) -> Option<CodedBlock> {
        self.coded(self.format.values(), Lie::Rows)
    }

    fn coded(&self, rows: RowFormat, lie: Lie) -> Option<CodedBlock> {
        match rows {
            RowFormat::Numbers(_) => None,
            RowFormat::Codes(bits) => Some(CodedBlock { bits, head_dim: self.head_dim, lie }),
        }
    }

    /// First element of `channel`'s panel `[width][32]`, if there is such a channel.
    pub fn side_offset(&self, channel: usize) -> Option<usize> {
        self.side_offsets.get(channel).copied()
    }

    /// Writes one entry's key and value, each `[heads * d]`, rounded to the page's format.
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
        if let (Some(key), Some(value)) = (self.coded_keys(), self.coded_values()) {
            if let ElementsMut::F16(all) = page.elements_mut() {
                self.encode(all, slots, (key, keys), (value, values), stride);
            }
            return Ok(());
        }
        match page.elements_mut() {
            ElementsMut::F32(all) => self.store(all, slots, keys, values, stride, |x| x),
            ElementsMut::F16(all) => self.store(all, slots, keys, values, stride, f16::from_f32),
            ElementsMut::Bf16(all) => self.store(all, slots, keys, values, stride, bf16::from_f32),
        }
        Ok(())
    }

    /// Writes one entry's row `[width]` of a side channel, rounded to the page's format.
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
        let mut row = Vec::with_capacity(self.head_dim);
        self.read_keys(page, &[slot], head, &mut row).map(|()| row)
    }

    /// One entry's value for one head `[d]`, widened.
    ///
    /// Errors: a page of another layout, a slot of 32 or more, no such head.
    pub fn read_value(&self, page: &Buffer, slot: usize, head: usize) -> Result<Vec<f32>, KernelError> {
        let mut row = Vec::with_capacity(self.head_dim);
        self.read_values(page, &[slot], head, &mut row).map(|()| row)
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

    /// Refuses a buffer that is not a page of this layout.
    pub(crate) fn check_page(&self, op: &'static str, page: &Buffer) -> Result<(), KernelError> {
        if page.dtype() == self.side_dtype() && page.len() == self.elements {
            return Ok(());
        }
        Err(KernelError::Invalid {
            op,
            expected: format!("a page of {} elements of {}", self.elements, self.side_dtype()),
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

    /// Codes rows of keys and values.
    fn encode(
        &self,
        all: &mut [f16],
        slots: Range<usize>,
        (key, keys): (CodedBlock, &[f32]),
        (value, values): (CodedBlock, &[f32]),
        stride: usize,
    ) {
        let d = self.head_dim;
        for head in 0..self.heads {
            for (i, slot) in slots.clone().enumerate() {
                let row = i * stride + head * d;
                key.write(&mut all[self.key_range(head)], slot, &keys[row..][..d]);
                value.write(&mut all[self.value_range(head)], slot, &values[row..][..d]);
            }
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
