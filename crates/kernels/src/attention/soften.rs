//! From scores to weights: which entries a row sees, and their exponentials.

use super::sweep::BLOCK;
use crate::PAGE_ENTRIES;
use crate::panel::MAX_TILE_ROWS;
use crate::simd::exp::exp;
use crate::simd::{Kernel, MAX_LANES, Simd};

/// A page of a block and how many of its entries each query of a tile sees.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    /// Of the page's live entries, 32 or, on a lane's last page, fewer.
    pub(super) positions: &'a [u32],
    pub(super) expires_at: &'a [u32],
    pub(super) counts: [u32; MAX_TILE_ROWS],
}

impl Sight<'_> {
    /// A page without entries.
    pub(super) const NOTHING: Self = Sight { positions: &[], expires_at: &[], counts: [0; MAX_TILE_ROWS] };
}

#[inline(always)]
fn sees(query: u32, position: u32, expires_at: u32) -> bool {
    // Not `&&`: a branch per entry would keep the loop from becoming a vector comparison.
    (position <= query) & (query < expires_at)
}

/// Counts the entries of a page that the queries from `query` on see; whether there are any.
pub(super) struct Seen<'a> {
    pub(super) positions: &'a [u32],
    pub(super) expires_at: &'a [u32],
    pub(super) query: u32,
    /// One per query.
    pub(super) counts: &'a mut [u32],
}

impl Kernel for Seen<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> bool {
        let mut any = 0;
        let whole =
            (self.positions.first_chunk::<PAGE_ENTRIES>(), self.expires_at.first_chunk::<PAGE_ENTRIES>());
        for (i, count) in self.counts.iter_mut().enumerate() {
            // Fits: the caller's queries are rows of a checked call.
            let query = self.query + i as u32;
            let mut seen = 0;
            if let (Some(positions), Some(expires_at)) = whole {
                for e in 0..PAGE_ENTRIES {
                    seen += u32::from(sees(query, positions[e], expires_at[e]));
                }
            } else {
                for (&position, &expires_at) in self.positions.iter().zip(self.expires_at) {
                    seen += u32::from(sees(query, position, expires_at));
                }
            }
            *count = seen;
            any |= seen;
        }
        any != 0
    }
}

/// Turns a tile's scores of one block into weights `e^(score - maximum)`, exactly 0 for entries that the row does
/// not see, and brings the rows' maxima and sums up to date.
pub(super) struct Soften<'a> {
    /// `[rows][BLOCK]`, 32 per sight; scores before, weights after.
    pub(super) scores: &'a mut [f32],
    pub(super) sights: &'a [Sight<'a>],
    /// Position of the tile's first query.
    pub(super) query: u32,
    /// Rows per query.
    pub(super) group: usize,
    /// Rows of the first query that are in the tile before.
    pub(super) offset: usize,
    /// Per row.
    pub(super) maxima: &'a mut [f32],
    /// Per row.
    pub(super) sums: &'a mut [f32],
    /// Per row: what the rows' older sums and mixed values are to be multiplied by.
    pub(super) corrections: &'a mut [f32; MAX_LANES],
}

impl Kernel for Soften<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Soften { scores, sights, query, group, offset, maxima, sums, corrections } = self;
        let width = sights.len() * PAGE_ENTRIES;
        let mut falls = [0.0; MAX_LANES];
        let mut fresh = [0.0; MAX_LANES];
        for (r, maximum) in maxima.iter_mut().enumerate() {
            let of_query = (r + offset) / group;
            let row = &mut scores[r * BLOCK..][..width];
            if sights.iter().all(|sight| sight.counts[of_query] == 0) {
                row.fill(0.0);
                continue;
            }
            hide(row, sights, query + of_query as u32, of_query);
            let mut largest = simd.splat(f32::NEG_INFINITY);
            for chunk in row.chunks_exact(S::LANES) {
                largest = simd.max(largest, simd.read(chunk));
            }
            let top = maximum.max(simd.largest(largest));
            falls[r] = *maximum - top;
            *maximum = top;
            let (top, mut sum) = (simd.splat(top), simd.splat(0.0));
            for chunk in row.chunks_exact_mut(S::LANES) {
                let weight = exp(simd, simd.sub(simd.read(chunk), top));
                simd.write(chunk, weight);
                sum = simd.add(sum, weight);
            }
            fresh[r] = simd.sum(sum);
        }
        for (fall, correction) in falls.chunks_exact(S::LANES).zip(corrections.chunks_exact_mut(S::LANES)) {
            // e^0 is exactly 1, and e^-infinity, where a row sees its first entries, exactly 0.
            simd.write(correction, exp(simd, simd.read(fall)));
        }
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = *sum * corrections[r] + fresh[r];
        }
    }
}

/// Scores of entries that the query does not see become -infinity, whose exponential is exactly 0.
#[inline(always)]
fn hide(row: &mut [f32], sights: &[Sight<'_>], query: u32, of_query: usize) {
    for (scores, sight) in row.chunks_exact_mut(PAGE_ENTRIES).zip(sights) {
        if sight.counts[of_query] as usize == PAGE_ENTRIES {
            continue;
        }
        let whole =
            (sight.positions.first_chunk::<PAGE_ENTRIES>(), sight.expires_at.first_chunk::<PAGE_ENTRIES>());
        if let (Some(positions), Some(expires_at)) = whole {
            for e in 0..PAGE_ENTRIES {
                scores[e] =
                    if sees(query, positions[e], expires_at[e]) { scores[e] } else { f32::NEG_INFINITY };
            }
        } else {
            for (e, score) in scores.iter_mut().enumerate() {
                let live = sight.positions.get(e).zip(sight.expires_at.get(e));
                if !live.is_some_and(|(&position, &expires_at)| sees(query, position, expires_at)) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
    }
}
