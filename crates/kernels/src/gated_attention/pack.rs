//! Operands as the products read them: aligned, in whole lines, zeros behind the end.

use std::ops::{Deref, DerefMut};

use super::plan::{CELLS, SIDE};

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Zeroed f32 that start at a cache line.
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// At least `len` zeros.
    pub(super) fn zeroed(len: usize) -> Self {
        Self(vec![Line([0.0; 16]); len.div_ceil(16)])
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a Line is 16 f32 without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: a Line is 16 f32 without padding.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

/// A tile, `[query][key]`.
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [f32; CELLS]);

impl Tile {
    pub(super) const ZERO: Self = Self([0.0; CELLS]);
}

/// Rows of a larger matrix: `width` columns from `from[0]` on, rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) from: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) width: usize,
}

impl Source<'_> {
    /// `[count][wide]`, times `factor`; what lies behind the columns and rows stays.
    pub(super) fn rows(&self, factor: f32, wide: usize, to: &mut [f32]) {
        for i in 0..self.count {
            let from = &self.from[i * self.stride..][..self.width];
            let to = &mut to[i * wide..][..self.width];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * factor);
        }
    }

    /// `[width][32]`, transposed, times `factor`; zeros behind the rows.
    pub(super) fn panel(&self, factor: f32, to: &mut [f32]) {
        for (column, to) in to.chunks_exact_mut(SIDE).take(self.width).enumerate() {
            for (i, to) in to.iter_mut().enumerate() {
                *to = if i < self.count { self.from[i * self.stride + column] * factor } else { 0.0 };
            }
        }
    }
}
