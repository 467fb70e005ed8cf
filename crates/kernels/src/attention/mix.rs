//! The weighted sum of values.

use super::sweep::{BLOCK, BLOCK_PAGES};
use crate::PAGE_ENTRIES;
use crate::panel::{Block, CACHE_LINE};
use crate::simd::{Kernel, MAX_LANES, Simd};

/// `mixed[r] = mixed[r] * corrections[r] + sum over the block's entries e of weights[r][e] * values[e]`.
///
/// One accumulator per element, entries in slot order, so that its bits do not depend on the tile. Slots behind a
/// lane's last entry are not read: what a page of a pool held before may be anything.
pub(super) struct Mix<'a, B> {
    /// `[count][BLOCK]`
    pub(super) weights: &'a [f32],
    /// Rows of the tile, padding included.
    pub(super) count: usize,
    /// Per page `[32][d]`.
    pub(super) values: &'a [B],
    /// Where what is read next begins, about as long as a page's values; fetched into the cache during the last page.
    /// May be null.
    pub(super) ahead: *const u8,
    pub(super) head_dim: usize,
    /// Live entries of each page.
    pub(super) entries: [usize; BLOCK_PAGES],
    /// Per row.
    pub(super) corrections: &'a [f32; MAX_LANES],
    /// `[count][stride]`
    pub(super) mixed: &'a mut [f32],
    /// d, rounded up to whole vectors.
    pub(super) stride: usize,
}

impl<B: Block> Kernel for Mix<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.count {
            1 => self.sweep::<S, 1, 8>(simd),
            2 => self.sweep::<S, 2, 4>(simd),
            4 if S::TILE_ROWS >= 8 => self.sweep::<S, 4, 4>(simd),
            4 => self.sweep::<S, 4, 2>(simd),
            6 if S::TILE_ROWS == 6 => self.sweep::<S, 6, 2>(simd),
            8 if S::TILE_ROWS >= 8 => self.sweep::<S, 8, 2>(simd),
            12 if S::TILE_ROWS >= 12 => self.sweep::<S, 12, 2>(simd),
            other => debug_assert!(false, "no tile of {other} rows"),
        }
    }
}

impl<B: Block> Mix<'_, B> {
    /// Goes over all columns, C vectors at a time.
    #[inline(always)]
    fn sweep<S: Simd, const R: usize, const C: usize>(mut self, simd: S) {
        let d = self.head_dim;
        assert!(self.values.len() <= BLOCK_PAGES);
        assert!(self.values.iter().all(|values| values.holds(d)));
        assert!(self.entries.iter().all(|&entries| entries <= PAGE_ENTRIES));
        assert!(self.weights.len() >= R * BLOCK && R <= MAX_LANES);
        assert!(self.stride >= d.next_multiple_of(S::LANES) && self.mixed.len() >= R * self.stride);
        let mut column = 0;
        while column + C * S::LANES <= d {
            // SAFETY: the asserts above are what `tile` asks for, and the columns are below d.
            unsafe { self.tile::<S, R, C>(simd, column) };
            column += C * S::LANES;
        }
        if C > 4 && column + 4 * S::LANES <= d {
            // SAFETY: as above.
            unsafe { self.tile::<S, R, 4>(simd, column) };
            column += 4 * S::LANES;
        }
        if C > 2 && column + 2 * S::LANES <= d {
            // SAFETY: as above.
            unsafe { self.tile::<S, R, 2>(simd, column) };
            column += 2 * S::LANES;
        }
        if column + S::LANES <= d {
            // SAFETY: as above.
            unsafe { self.tile::<S, R, 1>(simd, column) };
            column += S::LANES;
        }
        if column < d {
            self.tail::<S, R>(simd, column);
        }
    }

    /// # Safety
    /// The asserts of `sweep` hold and `column + C * LANES` is at most d.
    // Plain indices over constant bounds are what the compiler unrolls into registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const C: usize>(&mut self, simd: S, column: usize) {
        let (d, stride, weights) = (self.head_dim, self.stride, self.weights.as_ptr());
        let mixed = self.mixed.as_mut_ptr();
        let mut sums = [[simd.splat(0.0); C]; R];
        for r in 0..R {
            for c in 0..C {
                // SAFETY: row r of `mixed`, and the columns are below the stride.
                let old = unsafe { simd.load(mixed.add(r * stride + column + c * S::LANES)) };
                sums[r][c] = simd.mul(old, simd.splat(self.corrections[r]));
            }
        }
        for (page, values) in self.values.iter().enumerate() {
            let next = self.values.get(page + 1).map_or(self.ahead, |values| values.start());
            let steps = values.steps(simd, d, column, C * S::LANES);
            for e in 0..self.entries[page] {
                let mut value = [simd.splat(0.0); C];
                for c in 0..C {
                    // SAFETY: entry e is one of the page's 32, the columns are below d, and they begin at a multiple of the
                    // lanes, so that they lie in one group.
                    value[c] = unsafe { values.load(simd, &steps, d, e, column, c * S::LANES) };
                    if (c * S::LANES * B::BITS / 8).is_multiple_of(CACHE_LINE) {
                        simd.prefetch(next.wrapping_add(B::place(d, e, column + c * S::LANES)));
                    }
                }
                for r in 0..R {
                    // SAFETY: row r of `weights`; page and entry are inside the block.
                    let weight = simd.splat(unsafe { *weights.add(r * BLOCK + page * PAGE_ENTRIES + e) });
                    for c in 0..C {
                        sums[r][c] = simd.mul_add(weight, value[c], sums[r][c]);
                    }
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                // SAFETY: as the load above.
                unsafe { simd.store(mixed.add(r * stride + column + c * S::LANES), sum) };
            }
        }
    }

    /// The last, partial vector of every row.
    #[inline(always)]
    fn tail<S: Simd, const R: usize>(&mut self, simd: S, column: usize) {
        let (d, stride) = (self.head_dim, self.stride);
        let mut sums = [simd.splat(0.0); R];
        for (r, sum) in sums.iter_mut().enumerate() {
            let old = simd.read(&self.mixed[r * stride + column..]);
            *sum = simd.mul(old, simd.splat(self.corrections[r]));
        }
        for (page, values) in self.values.iter().enumerate() {
            for e in 0..self.entries[page] {
                // Through a copy: the whole vector would reach beyond the entry and at last beyond the page.
                let mut lanes = [0.0; MAX_LANES];
                lanes.iter_mut().zip(column..d).for_each(|(to, column)| *to = values.number(d, e, column));
                let value = simd.read(&lanes);
                for (r, sum) in sums.iter_mut().enumerate() {
                    let weight = simd.splat(self.weights[r * BLOCK + page * PAGE_ENTRIES + e]);
                    *sum = simd.mul_add(weight, value, *sum);
                }
            }
        }
        for (r, &sum) in sums.iter().enumerate() {
            simd.write(&mut self.mixed[r * stride + column..], sum);
        }
    }
}
