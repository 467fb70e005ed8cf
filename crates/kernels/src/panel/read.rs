//! What kernels read keys and values from: numbers of any format, or codes.

use crate::simd::{Element, Simd};
use crate::{Buffer, Elements, PAGE_ENTRIES, PageLayout};

/// Numbers `[k][32]` of 32 entries: the operand of [`super::PanelProducts`].
pub(crate) trait Panel: Copy {
    /// The lanes from one entry on, through all rows.
    type Column: Copy;
    /// What rows of a group share.
    type Steps<S: Simd>: Copy;
    /// Rows of a group.
    const GROUP: usize;
    /// Bits of a number, steps aside.
    const BITS: usize;

    /// Whether it has so many rows.
    fn holds(self, rows: usize) -> bool;
    /// Where it begins.
    fn start(self) -> *const u8;
    /// The lanes from entry `entry` on, a multiple of the lanes and below 32.
    fn column(self, entry: usize) -> Self::Column;
    /// What row `k` and the others of its group share.
    ///
    /// # Safety
    /// `column` is of a panel that holds row `k`.
    unsafe fn steps<S: Simd>(simd: S, column: Self::Column, k: usize) -> Self::Steps<S>;
    /// `LANES` numbers of row `k`, whose group's `steps` are.
    ///
    /// # Safety
    /// As [`Panel::steps`].
    unsafe fn load<S: Simd>(simd: S, column: Self::Column, steps: Self::Steps<S>, k: usize) -> S::V;
}

/// Numbers `[32][d]` of 32 entries: the operand of attention's weighted sum.
pub(crate) trait Block: Copy {
    /// What some columns of all entries share, ready to be broadcast.
    type Steps;
    /// Bits of a number, steps aside.
    const BITS: usize;

    /// Whether it has 32 rows of d numbers.
    fn holds(self, head_dim: usize) -> bool;
    /// Where it begins.
    fn start(self) -> *const u8;
    /// Byte of the number of an entry in a column.
    fn place(head_dim: usize, entry: usize, column: usize) -> usize;
    /// What `width` columns from `column` on need, at most 128 of them: whole groups, or a part of one.
    fn steps<S: Simd>(self, simd: S, head_dim: usize, column: usize, width: usize) -> Self::Steps;
    /// `LANES` numbers of an entry from column `column + ahead` on, with the steps of `column`.
    ///
    /// # Safety
    /// The block holds 32 rows of d numbers, the entry is one of them, the columns are below d, and the lanes lie in one group.
    unsafe fn load<S: Simd>(
        self,
        simd: S,
        steps: &Self::Steps,
        head_dim: usize,
        entry: usize,
        column: usize,
        ahead: usize,
    ) -> S::V;
    /// One number.
    fn number(self, head_dim: usize, entry: usize, column: usize) -> f32;
}

impl<E: Element> Panel for &[E] {
    type Column = *const E;
    type Steps<S: Simd> = ();
    const GROUP: usize = usize::MAX;
    const BITS: usize = 8 * size_of::<E>();

    #[inline(always)]
    fn holds(self, rows: usize) -> bool {
        self.len() >= rows * PAGE_ENTRIES
    }
    #[inline(always)]
    fn start(self) -> *const u8 {
        self.as_ptr().cast()
    }
    #[inline(always)]
    fn column(self, entry: usize) -> *const E {
        self[entry..].as_ptr()
    }
    #[inline(always)]
    unsafe fn steps<S: Simd>(_simd: S, _column: *const E, _k: usize) {}
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, column: *const E, _steps: (), k: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { E::load(simd, column.add(k * PAGE_ENTRIES)) }
    }
}

impl<E: Element> Block for &[E] {
    type Steps = ();
    const BITS: usize = 8 * size_of::<E>();

    #[inline(always)]
    fn holds(self, head_dim: usize) -> bool {
        self.len() >= PAGE_ENTRIES * head_dim
    }
    #[inline(always)]
    fn start(self) -> *const u8 {
        self.as_ptr().cast()
    }
    #[inline(always)]
    fn place(head_dim: usize, entry: usize, column: usize) -> usize {
        (entry * head_dim + column) * size_of::<E>()
    }
    #[inline(always)]
    fn steps<S: Simd>(self, _simd: S, _head_dim: usize, _column: usize, _width: usize) {}
    #[inline(always)]
    unsafe fn load<S: Simd>(
        self,
        simd: S,
        _steps: &(),
        head_dim: usize,
        entry: usize,
        column: usize,
        ahead: usize,
    ) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { E::load(simd, self.as_ptr().add(entry * head_dim + column + ahead)) }
    }
    #[inline(always)]
    fn number(self, head_dim: usize, entry: usize, column: usize) -> f32 {
        self[entry * head_dim + column].to_f32()
    }
}

/// A format of the cache, as kernels are made for it: what a page's keys and values are read from.
pub(crate) trait PageRows {
    /// Keys of a head.
    type Keys<'a>: Panel;
    /// Values of a head.
    type Values<'a>: Block;

    /// A head's keys; nothing only for a page of another format.
    fn keys<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<Self::Keys<'a>>;
    /// A head's values, likewise.
    fn values<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<Self::Values<'a>>;
}

impl<E: PageElement> PageRows for E {
    type Keys<'a> = &'a [E];
    type Values<'a> = &'a [E];

    fn keys<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<&'a [E]> {
        E::of(page)?.get(layout.key_range(head))
    }

    fn values<'a>(layout: &PageLayout, page: &'a Buffer, head: usize) -> Option<&'a [E]> {
        E::of(page)?.get(layout.value_range(head))
    }
}

/// An element that a page can be asked for.
pub(crate) trait PageElement: Element {
    /// The page's elements, if they are of this type.
    fn of(page: &Buffer) -> Option<&[Self]>;
}

impl PageElement for f32 {
    fn of(page: &Buffer) -> Option<&[Self]> {
        if let Elements::F32(all) = page.elements() { Some(all) } else { None }
    }
}

impl PageElement for half::f16 {
    fn of(page: &Buffer) -> Option<&[Self]> {
        if let Elements::F16(all) = page.elements() { Some(all) } else { None }
    }
}

impl PageElement for half::bf16 {
    fn of(page: &Buffer) -> Option<&[Self]> {
        if let Elements::Bf16(all) = page.elements() { Some(all) } else { None }
    }
}

/// Calls `$call::<F>($arguments)` for the `F` that a layout's pages are of.
macro_rules! with_rows {
    ($format:expr, $F:ident => $call:expr) => {
        match $format {
            $crate::page::KvFormat::F32 => {
                type $F = f32;
                $call
            }
            $crate::page::KvFormat::F16 => {
                type $F = half::f16;
                $call
            }
            $crate::page::KvFormat::Bf16 => {
                type $F = half::bf16;
                $call
            }
            $crate::page::KvFormat::Q8 => {
                type $F = $crate::panel::Q8;
                $call
            }
            $crate::page::KvFormat::Q4 => {
                type $F = $crate::panel::Q4;
                $call
            }
        }
    };
}
pub(crate) use with_rows;
