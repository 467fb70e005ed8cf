//! Products of a few rows with panels `[k][32]` of cache pages: the scores of attention and the votes of gates.

mod codes;
mod read;

pub(crate) use codes::{Q4, Q8};
pub(crate) use read::{Block, PageElement, PageRows, Panel, with_rows};

use crate::PAGE_ENTRIES;
use crate::simd::{Isa, Kernel, Simd};

/// Bytes that one prefetch brings.
pub(crate) const CACHE_LINE: usize = 64;

/// The largest tile of any instruction set.
pub(crate) const MAX_TILE_ROWS: usize = 12;

/// Row counts that an instruction set has register tiles for: the largest fills the registers beside two columns
/// and so keeps the multiply-add units busy; a tile with another count is padded to the next one.
fn tiles_of(isa: Isa) -> &'static [usize] {
    match isa {
        Isa::Avx512 | Isa::Avx512Vnni => &[1, 2, 4, 8, MAX_TILE_ROWS],
        Isa::Avx2 => &[1, 2, 4, 6],
        Isa::Portable => &[1, 2, 4],
    }
}

/// Rows of an instruction set's largest tile.
pub(crate) fn tile_rows(isa: Isa) -> usize {
    tiles_of(isa).iter().copied().fold(1, usize::max)
}

/// The tile that `rows` rows, at most [`tile_rows`], are padded to.
pub(crate) fn padded_rows(isa: Isa, rows: usize) -> usize {
    tiles_of(isa).iter().copied().find(|&tile| tile >= rows).unwrap_or(MAX_TILE_ROWS)
}

/// `products[r * stride + 32 p + e] = sum over k of rows[k][r] * panels[p][k][e]`, f32, k ascending.
///
/// Every product is one accumulator's chain over k, so its bits depend on its row and its panel column alone:
/// not on the tile, nor on which other rows or panels are in the call.
pub(crate) struct PanelProducts<'a, P> {
    /// `[k][count]`
    pub(crate) rows: &'a [f32],
    /// One of the counts that [`padded_rows`] gives.
    pub(crate) count: usize,
    /// Each `[k][32]`.
    pub(crate) panels: &'a [P],
    /// Where what the caller reads next begins, each about as long as a panel; it is fetched into the cache while the last
    /// panels are multiplied. May be empty.
    pub(crate) ahead: &'a [*const u8],
    /// `[count][stride]`
    pub(crate) products: &'a mut [f32],
    /// At least 32 per panel.
    pub(crate) stride: usize,
}

impl<P: Panel> Kernel for PanelProducts<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.count {
            1 => self.sweep::<S, 1, 4>(simd),
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

impl<P: Panel> PanelProducts<'_, P> {
    /// Goes over all columns of all panels, C vectors at a time: enough chains to hide the latency of an addition.
    #[inline(always)]
    fn sweep<S: Simd, const R: usize, const C: usize>(mut self, simd: S) {
        let depth = self.rows.len() / R;
        assert!(self.panels.iter().all(|panel| panel.holds(depth)));
        assert!(self.stride >= self.panels.len() * PAGE_ENTRIES && self.products.len() >= R * self.stride);
        let columns = self.panels.len() * PAGE_ENTRIES / S::LANES;
        let mut column = 0;
        while column + C <= columns {
            // SAFETY: the asserts above are what `tile` asks for; columns are inside the panels.
            unsafe { self.tile::<S, R, C>(simd, depth, column) };
            column += C;
        }
        // A panel has an even number of vectors, so pairs finish whatever the wider tiles left.
        while column + 2 <= columns {
            // SAFETY: as above.
            unsafe { self.tile::<S, R, 2>(simd, depth, column) };
            column += 2;
        }
    }

    /// # Safety
    /// Every panel holds `depth` rows, `self.rows` holds `depth * R`, `products` holds `R * stride`, and
    /// `column + C` vectors are inside the panels.
    // Plain indices over constant bounds are what the compiler unrolls into registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const C: usize>(&mut self, simd: S, depth: usize, column: usize) {
        let mut from = [self.panels[0].column(0); C];
        // The columns that come C vectors later. Hardware prefetchers stop at the end of each 4 KiB, and panels are
        // hardly longer: without this hint a decode reaches half of the memory's bandwidth.
        let mut next = [std::ptr::null::<u8>(); C];
        for c in 0..C {
            let element = (column + c) * S::LANES;
            let panel = self.panels[element / PAGE_ENTRIES];
            from[c] = panel.column(element % PAGE_ENTRIES);
            let element = element + (C * S::LANES).max(PAGE_ENTRIES);
            let later = element / PAGE_ENTRIES;
            let start = match self.panels.get(later) {
                Some(panel) => panel.start(),
                None => self.ahead.get(later - self.panels.len()).copied().unwrap_or(panel.start()),
            };
            next[c] = start.wrapping_add(element % PAGE_ENTRIES * P::BITS / 8);
        }
        let rows = self.rows.as_ptr();
        let mut sums = [[simd.splat(0.0); C]; R];
        let mut first = 0;
        while first < depth {
            let end = depth.min(first.saturating_add(P::GROUP));
            // SAFETY: row `first` of the panel.
            let mut steps = [unsafe { P::steps(simd, from[0], first) }; C];
            for c in 1..C {
                // SAFETY: as above.
                steps[c] = unsafe { P::steps(simd, from[c], first) };
            }
            for k in first..end {
                let mut entries = [simd.splat(0.0); C];
                for c in 0..C {
                    // SAFETY: row k of the panel, and the lanes from this column on are inside its 32.
                    entries[c] = unsafe { P::load(simd, from[c], steps[c], k) };
                    // Once a cache line, and for each panel.
                    if (c * S::LANES * P::BITS / 8).is_multiple_of(CACHE_LINE)
                        || (c * S::LANES).is_multiple_of(PAGE_ENTRIES)
                    {
                        simd.prefetch(next[c].wrapping_add(k * (PAGE_ENTRIES * P::BITS / 8)));
                    }
                }
                for r in 0..R {
                    // SAFETY: k < depth and r < R.
                    let row = simd.splat(unsafe { *rows.add(k * R + r) });
                    for c in 0..C {
                        sums[r][c] = simd.mul_add(row, entries[c], sums[r][c]);
                    }
                }
            }
            first = end;
        }
        let products = self.products.as_mut_ptr();
        for (r, sums) in sums.iter().enumerate() {
            for (c, &sum) in sums.iter().enumerate() {
                // SAFETY: row r of `products` holds every column.
                unsafe { simd.store(products.add(r * self.stride + (column + c) * S::LANES), sum) };
            }
        }
    }
}
