//! How codes lie in a page.
//!
//! The elements of the page are f16, and codes lie in them as bytes. Of each head:
//!
//! | what | bytes |
//! |---|---|
//! | codes of keys, a panel `[d][32]` | `32 * d` |
//! | steps of keys: per group of dimensions 32 steps, then 32 least numbers, f16 | `128 * groups` |
//!
//! for all heads, and then for all heads
//!
//! | what | bytes |
//! |---|---|
//! | codes of values `[32][d]`, each row of whole lines of 32 dimensions | `32 * lines * (32 or 16)` |
//! | steps of values, as of keys | `128 * groups` |
//!
//! An entry's column of codes and of steps is all that there is of it, so it is moved as bytes.

use half::f16;

use super::codes::{LINE, Steps, get, line_bytes, set};
use super::{CodeBits, PAGE_ENTRIES};

/// Elements of the steps of a group: a step and a least number of each entry.
pub(crate) const STEPS: usize = 2 * PAGE_ENTRIES;

/// Which way codes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Keys: dimension k of all entries is a line.
    Panel,
    /// Values: an entry is a row of lines.
    Rows,
}

/// The codes and steps of one head's keys or values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CodedBlock {
    pub(crate) bits: CodeBits,
    pub(crate) head_dim: usize,
    pub(crate) lie: Lie,
}

impl CodedBlock {
    /// Bytes from one line, of keys, or one entry, of values, to the next.
    pub(crate) fn stride(self) -> usize {
        match self.lie {
            Lie::Panel => line_bytes(self.bits),
            Lie::Rows => self.head_dim.div_ceil(LINE) * line_bytes(self.bits),
        }
    }

    /// Bytes of all codes.
    pub(crate) fn code_bytes(self) -> usize {
        match self.lie {
            Lie::Panel => self.head_dim * self.stride(),
            Lie::Rows => PAGE_ENTRIES * self.stride(),
        }
    }

    pub(crate) fn groups(self) -> usize {
        self.head_dim.div_ceil(self.bits.group())
    }

    /// Elements of the block.
    pub(crate) fn elements(self) -> usize {
        self.code_bytes() / size_of::<f16>() + self.groups() * STEPS
    }

    /// The block's codes and steps.
    pub(crate) fn split(self, block: &[f16]) -> (&[u8], &[f16]) {
        let (codes, steps) = block.split_at(self.code_bytes() / size_of::<f16>());
        (bytemuck::cast_slice(codes), steps)
    }

    /// Codes an entry's row `[d]`.
    pub(crate) fn write(self, block: &mut [f16], slot: usize, row: &[f32]) {
        let (codes, steps) = block.split_at_mut(self.code_bytes() / size_of::<f16>());
        let codes: &mut [u8] = bytemuck::cast_slice_mut(codes);
        let groups = row.chunks(self.bits.group()).zip(steps.chunks_exact_mut(STEPS));
        for (group, (numbers, steps)) in groups.enumerate() {
            let found = Steps::stored(numbers, self.bits);
            // Exact: both are f16 already.
            steps[slot] = f16::from_f32(found.step);
            steps[PAGE_ENTRIES + slot] = f16::from_f32(found.least);
            // Apart from where they go, so that this is vector arithmetic.
            let mut found_codes = [0; CodeBits::Eight.group()];
            for (code, &number) in found_codes.iter_mut().zip(numbers) {
                *code = found.code(number, self.bits);
            }
            for (&code, k) in found_codes[..numbers.len()].iter().zip(group * self.bits.group()..) {
                let (line, place) = self.place(slot, k);
                set(&mut codes[line..], place, code, self.bits);
            }
        }
    }

    /// What dimension `k` of an entry's row stands for.
    pub(crate) fn number(self, block: &[f16], slot: usize, k: usize) -> f32 {
        let (codes, steps) = self.split(block);
        self.number_of(codes, steps, slot, k)
    }

    /// The same, of a block that was split.
    pub(crate) fn number_of(self, codes: &[u8], steps: &[f16], slot: usize, k: usize) -> f32 {
        let (line, place) = self.place(slot, k);
        let steps = &steps[k / self.bits.group() * STEPS..][..STEPS];
        let found = Steps { step: steps[slot].to_f32(), least: steps[PAGE_ENTRIES + slot].to_f32() };
        found.number(get(&codes[line..], place, self.bits))
    }

    /// An entry's codes as a page of a device has them: a byte each, or of 4 bits even dimensions in the low halves of bytes.
    #[cfg(test)]
    pub(crate) fn row_of_codes(self, block: &[f16], slot: usize) -> Vec<u8> {
        let (codes, _) = self.split(block);
        let code = |k: usize| {
            let (line, place) = self.place(slot, k);
            get(&codes[line..], place, self.bits)
        };
        match self.bits {
            CodeBits::Eight => (0..self.head_dim).map(code).collect(),
            CodeBits::Four => (0..self.head_dim / 2).map(|i| code(2 * i) | code(2 * i + 1) << 4).collect(),
        }
    }

    /// An entry's steps as a page of a device has them: of each group the step, then the least number, f16.
    #[cfg(test)]
    pub(crate) fn row_of_steps(self, block: &[f16], slot: usize) -> Vec<u8> {
        let (_, steps) = self.split(block);
        let group = |steps: &[f16]| [steps[slot], steps[PAGE_ENTRIES + slot]].map(f16::to_le_bytes);
        steps.chunks_exact(STEPS).flat_map(group).flatten().collect()
    }

    /// Calls `run(from, to, length)` for every run of bytes that an entry has in the block, codes and steps.
    pub(crate) fn each_run(self, from: usize, to: usize, mut run: impl FnMut(usize, usize, usize)) {
        let (stride, codes, element) = (self.stride(), self.code_bytes(), size_of::<f16>());
        match self.lie {
            // Keys have 8 bits: a code is a byte.
            Lie::Panel => (0..self.head_dim).for_each(|k| run(k * stride + from, k * stride + to, 1)),
            Lie::Rows => run(from * stride, to * stride, stride),
        }
        for number in 0..2 * self.groups() {
            let start = codes + number * PAGE_ENTRIES * element;
            run(start + from * element, start + to * element, element);
        }
    }

    /// Byte of the line, and place in it, of dimension `k` of an entry.
    fn place(self, slot: usize, k: usize) -> (usize, usize) {
        match self.lie {
            Lie::Panel => (k * self.stride(), slot),
            Lie::Rows => (slot * self.stride() + k / LINE * line_bytes(self.bits), k % LINE),
        }
    }
}
