//! Keys and values read from codes: what a page stands for, bit for bit as `PageLayout::read_key` and `read_value` give it.

use half::f16;

use super::read::{Block, PageElement, PageRows, Panel};
use crate::page::{CodeBits, CodedBlock, LINE, Lie, STEPS, line_bytes};
use crate::simd::Simd;
use crate::{Buffer, PAGE_ENTRIES, PageLayout};

/// Keys of 8 bits, values of `VALUES`.
pub(crate) struct Coded<const VALUES: usize>;

/// Keys and values of 8 bits.
pub(crate) type Q8 = Coded<8>;

/// Keys of 8 bits, values of 4.
pub(crate) type Q4 = Coded<4>;

impl<const VALUES: usize> PageRows for Coded<VALUES> {
    type Keys<'a> = Codes<'a, 8>;
    type Values<'a> = Codes<'a, VALUES>;

    fn keys<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<Codes<'a, 8>> {
        let (codes, steps) = layout.coded_keys()?.split(f16::of(page)?.get(layout.key_range(head))?);
        Some(Codes { codes, steps })
    }

    fn values<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<Codes<'a, VALUES>> {
        let (codes, steps) = layout.coded_values()?.split(f16::of(page)?.get(layout.value_range(head))?);
        Some(Codes { codes, steps })
    }
}

/// Codes of 8 or 4 bits, of keys `[k][32]` or of values `[32][lines of 32]`.
#[derive(Clone, Copy)]
pub(crate) struct Codes<'a, const BITS: usize> {
    codes: &'a [u8],
    /// `[groups][2][32]`: steps, least numbers.
    steps: &'a [f16],
}

impl<const BITS: usize> Codes<'_, BITS> {
    const WIDTH: CodeBits = match BITS {
        4 => CodeBits::Four,
        8 => CodeBits::Eight,
        _ => panic!("codes have 4 or 8 bits"),
    };
    /// Rows of keys, or columns of values, that share steps.
    const GROUP: usize = Self::WIDTH.group();

    /// Whether it has all of `head_dim` rows of keys, or columns of values.
    #[inline(always)]
    fn holds_all(self, head_dim: usize, lie: Lie) -> bool {
        let block = CodedBlock { bits: Self::WIDTH, head_dim, lie };
        self.codes.len() >= block.code_bytes() && self.steps.len() >= block.groups() * STEPS
    }
}

/// Some lanes of a panel of codes.
#[derive(Clone, Copy)]
pub(crate) struct CodeColumn {
    codes: *const u8,
    steps: *const f16,
}

/// What a vector of codes counts.
#[derive(Clone, Copy)]
pub(crate) struct VectorSteps<V> {
    step: V,
    least: V,
}

impl Panel for Codes<'_, 8> {
    type Column = CodeColumn;
    type Steps<S: Simd> = VectorSteps<S::V>;
    const GROUP: usize = Self::GROUP;
    const BITS: usize = 8;

    #[inline(always)]
    fn holds(self, rows: usize) -> bool {
        self.holds_all(rows, Lie::Panel)
    }
    #[inline(always)]
    fn start(self) -> *const u8 {
        self.codes.as_ptr()
    }
    #[inline(always)]
    fn column(self, entry: usize) -> CodeColumn {
        CodeColumn { codes: self.codes[entry..].as_ptr(), steps: self.steps[entry..].as_ptr() }
    }
    #[inline(always)]
    unsafe fn steps<S: Simd>(simd: S, column: CodeColumn, k: usize) -> VectorSteps<S::V> {
        // SAFETY: the group has 32 steps and as many least numbers, and the lanes are inside.
        unsafe {
            let steps = column.steps.add(k / Self::GROUP * STEPS);
            VectorSteps { step: simd.load_f16(steps), least: simd.load_f16(steps.add(PAGE_ENTRIES)) }
        }
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, column: CodeColumn, steps: VectorSteps<S::V>, k: usize) -> S::V {
        // SAFETY: the caller's promise.
        let codes = unsafe { simd.load_u8(column.codes.add(k * PAGE_ENTRIES)) };
        simd.mul_add(codes, steps.step, steps.least)
    }
}

/// Of up to four groups the steps and least numbers of 32 entries, widened.
pub(crate) struct BlockSteps([[[f32; PAGE_ENTRIES]; 2]; MOST_GROUPS]);

/// Groups of 32 in the widest tile of columns.
const MOST_GROUPS: usize = 4;

impl<const BITS: usize> Block for Codes<'_, BITS> {
    type Steps = BlockSteps;
    const BITS: usize = BITS;

    #[inline(always)]
    fn holds(self, head_dim: usize) -> bool {
        self.holds_all(head_dim, Lie::Rows)
    }
    #[inline(always)]
    fn start(self) -> *const u8 {
        self.codes.as_ptr()
    }
    #[inline(always)]
    fn place(head_dim: usize, entry: usize, column: usize) -> usize {
        let line = line_bytes(Self::WIDTH);
        (entry * head_dim.div_ceil(LINE) + column / LINE) * line + column % line
    }
    #[inline(always)]
    fn steps<S: Simd>(self, simd: S, _head_dim: usize, column: usize, width: usize) -> BlockSteps {
        let groups = column / Self::GROUP..(column + width).div_ceil(Self::GROUP);
        let steps = self.steps[groups.start * STEPS..groups.end * STEPS].chunks_exact(STEPS);
        let mut widened = BlockSteps([[[0.0; PAGE_ENTRIES]; 2]; MOST_GROUPS]);
        for (to, from) in widened.0.iter_mut().zip(steps) {
            for (to, from) in to.iter_mut().zip(from.chunks_exact(PAGE_ENTRIES)) {
                for (to, from) in to.chunks_exact_mut(S::LANES).zip(from.chunks_exact(S::LANES)) {
                    // SAFETY: `from` has LANES elements.
                    simd.write(to, unsafe { simd.load_f16(from.as_ptr()) });
                }
            }
        }
        widened
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(
        self,
        simd: S,
        steps: &BlockSteps,
        head_dim: usize,
        entry: usize,
        column: usize,
        ahead: usize,
    ) -> S::V {
        let at = column + ahead;
        // SAFETY: the caller's promise: the columns are below d, and the block holds d in whole lines.
        let codes = unsafe {
            let from = self.codes.as_ptr().add(Self::place(head_dim, entry, at));
            match Self::WIDTH {
                CodeBits::Eight => simd.load_u8(from),
                CodeBits::Four => simd.load_nibbles(from, (at % LINE / (LINE / 2) * 4) as u32),
            }
        };
        let [step, least] = &steps.0[ahead / Self::GROUP];
        simd.mul_add(codes, simd.splat(step[entry]), simd.splat(least[entry]))
    }
    #[inline(always)]
    fn number(self, head_dim: usize, entry: usize, column: usize) -> f32 {
        let block = CodedBlock { bits: Self::WIDTH, head_dim, lie: Lie::Rows };
        block.number_of(self.codes, self.steps, entry, column)
    }
}
