//! Keys and values read from codes: what a page stands for, bit for bit as `PageLayout::read_key` and `read_value` give it.

use half::f16;

use super::read::{Block, PageElement, PageRows, Panel};
use crate::page::{CodeBits, CodedBlock, LINE, Lie, STEPS};
use crate::simd::Simd;
use crate::{Buffer, PAGE_ENTRIES, PageLayout};

/// Keys and values of 8 bits.
pub(crate) struct Q8;

/// Keys of 8 bits, values of 4.
pub(crate) struct Q4;

impl PageRows for Q8 {
    type Keys<'a> = Codes8<'a>;
    type Values<'a> = Codes8<'a>;

    fn keys<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<Codes8<'a>> {
        let (codes, steps) = layout.coded_keys()?.split(f16::of(page)?.get(layout.key_range(head))?);
        Some(Codes8 { codes, steps })
    }

    fn values<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<Codes8<'a>> {
        let (codes, steps) = layout.coded_values()?.split(f16::of(page)?.get(layout.value_range(head))?);
        Some(Codes8 { codes, steps })
    }
}

impl PageRows for Q4 {
    type Keys<'a> = Codes8<'a>;
    type Values<'a> = Codes4<'a>;

    fn keys<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<Codes8<'a>> {
        Q8::keys(layout, page, head)
    }

    fn values<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<Codes4<'a>> {
        let (codes, steps) = layout.coded_values()?.split(f16::of(page)?.get(layout.value_range(head))?);
        Some(Codes4 { codes, steps })
    }
}

/// Codes of 8 bits, of keys `[k][32]` or of values `[32][lines of 32]`.
#[derive(Clone, Copy)]
pub(crate) struct Codes8<'a> {
    codes: &'a [u8],
    /// `[groups][2][32]`: steps, least numbers.
    steps: &'a [f16],
}

/// Codes of 4 bits, of values `[32][lines of 32]`.
#[derive(Clone, Copy)]
pub(crate) struct Codes4<'a> {
    codes: &'a [u8],
    steps: &'a [f16],
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

const GROUP8: usize = CodeBits::Eight.group();
const GROUP4: usize = CodeBits::Four.group();

impl Panel for Codes8<'_> {
    type Column = CodeColumn;
    type Steps<S: Simd> = VectorSteps<S::V>;
    const GROUP: usize = GROUP8;
    const BITS: usize = 8;

    #[inline(always)]
    fn holds(self, rows: usize) -> bool {
        self.codes.len() >= rows * PAGE_ENTRIES && self.steps.len() >= rows.div_ceil(GROUP8) * STEPS
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
            let steps = column.steps.add(k / GROUP8 * STEPS);
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

#[inline(always)]
fn block_steps<S: Simd>(simd: S, steps: &[f16], groups: std::ops::Range<usize>) -> BlockSteps {
    let mut widened = BlockSteps([[[0.0; PAGE_ENTRIES]; 2]; MOST_GROUPS]);
    for (to, from) in
        widened.0.iter_mut().zip(steps[groups.start * STEPS..groups.end * STEPS].chunks_exact(STEPS))
    {
        for (to, from) in to.iter_mut().zip(from.chunks_exact(PAGE_ENTRIES)) {
            for (to, from) in to.chunks_exact_mut(S::LANES).zip(from.chunks_exact(S::LANES)) {
                // SAFETY: `from` has LANES elements.
                simd.write(to, unsafe { simd.load_f16(from.as_ptr()) });
            }
        }
    }
    widened
}

/// Groups that `width` columns from `column` on lie in.
#[inline(always)]
fn groups_of(column: usize, width: usize, group: usize) -> std::ops::Range<usize> {
    column / group..(column + width).div_ceil(group)
}

impl Block for Codes8<'_> {
    type Steps = BlockSteps;
    const BITS: usize = 8;

    #[inline(always)]
    fn holds(self, head_dim: usize) -> bool {
        let lines = head_dim.div_ceil(LINE);
        self.codes.len() >= PAGE_ENTRIES * lines * LINE
            && self.steps.len() >= head_dim.div_ceil(GROUP8) * STEPS
    }
    #[inline(always)]
    fn start(self) -> *const u8 {
        self.codes.as_ptr()
    }
    #[inline(always)]
    fn place(head_dim: usize, entry: usize, column: usize) -> usize {
        entry * head_dim.next_multiple_of(LINE) + column
    }
    #[inline(always)]
    fn steps<S: Simd>(self, simd: S, _head_dim: usize, column: usize, width: usize) -> BlockSteps {
        block_steps(simd, self.steps, groups_of(column, width, GROUP8))
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
        // SAFETY: the caller's promise: the columns are below d, and the block holds d.
        let codes =
            unsafe { simd.load_u8(self.codes.as_ptr().add(Self::place(head_dim, entry, column + ahead))) };
        let [step, least] = &steps.0[ahead / GROUP8];
        simd.mul_add(codes, simd.splat(step[entry]), simd.splat(least[entry]))
    }
    #[inline(always)]
    fn number(self, head_dim: usize, entry: usize, column: usize) -> f32 {
        number(CodeBits::Eight, self.codes, self.steps, head_dim, entry, column)
    }
}

impl Block for Codes4<'_> {
    type Steps = BlockSteps;
    const BITS: usize = 4;

    #[inline(always)]
    fn holds(self, head_dim: usize) -> bool {
        let lines = head_dim.div_ceil(LINE);
        self.codes.len() >= PAGE_ENTRIES * lines * LINE / 2
            && self.steps.len() >= head_dim.div_ceil(GROUP4) * STEPS
    }
    #[inline(always)]
    fn start(self) -> *const u8 {
        self.codes.as_ptr()
    }
    #[inline(always)]
    fn place(head_dim: usize, entry: usize, column: usize) -> usize {
        entry * head_dim.next_multiple_of(LINE) / 2 + column / LINE * (LINE / 2) + column % (LINE / 2)
    }
    #[inline(always)]
    fn steps<S: Simd>(self, simd: S, _head_dim: usize, column: usize, width: usize) -> BlockSteps {
        block_steps(simd, self.steps, groups_of(column, width, GROUP4))
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
        let shift = (at % LINE / (LINE / 2) * 4) as u32;
        // SAFETY: the caller's promise: the columns are below d, and the block holds d in whole lines.
        let codes =
            unsafe { simd.load_nibbles(self.codes.as_ptr().add(Self::place(head_dim, entry, at)), shift) };
        let [step, least] = &steps.0[ahead / GROUP4];
        simd.mul_add(codes, simd.splat(step[entry]), simd.splat(least[entry]))
    }
    #[inline(always)]
    fn number(self, head_dim: usize, entry: usize, column: usize) -> f32 {
        number(CodeBits::Four, self.codes, self.steps, head_dim, entry, column)
    }
}

fn number(bits: CodeBits, codes: &[u8], steps: &[f16], head_dim: usize, entry: usize, column: usize) -> f32 {
    CodedBlock { bits, head_dim, lie: Lie::Rows }.number_of(codes, steps, entry, column)
}
