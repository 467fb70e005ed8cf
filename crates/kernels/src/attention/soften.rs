//! From scores to weights: which entries a row sees, and their exponentials.

use super::sweep::BLOCK;
use crate::PAGE_ENTRIES;
use crate::simd::exp::exp;
use crate::simd::{Isa, Kernel, MAX_LANES, Simd};

/// The lifetimes of a page's entries and their bounds.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    /// Of the page's live entries, 32 or, on a lane's last page, fewer.
    positions: &'a [u32],
    expires_at: &'a [u32],
    bounds: Bounds,
}

/// Smallest and largest lifetimes of a page.
#[derive(Clone, Copy)]
struct Bounds {
    positions: (u32, u32),
    expires_at: (u32, u32),
}

impl<'a> Sight<'a> {
    /// A page without entries.
    pub(super) const NOTHING: Self = Sight {
        positions: &[],
        expires_at: &[],
        bounds: Bounds { positions: (u32::MAX, 0), expires_at: (u32::MAX, 0) },
    };

    /// Looks at a page's live entries.
    pub(super) fn new(isa: Isa, positions: &'a [u32], expires_at: &'a [u32]) -> Self {
        Self { positions, expires_at, bounds: isa.run(Look { positions, expires_at }) }
    }

    /// Live entries.
    pub(super) fn entries(&self) -> usize {
        self.positions.len()
    }

    /// False only if no query from `first` to `last` sees an entry.
    pub(super) fn may_be_seen(&self, first: u32, last: u32) -> bool {
        self.bounds.positions.0 <= last && first < self.bounds.expires_at.1
    }

    #[inline(always)]
    fn is_wholly_seen(&self, query: u32) -> bool {
        self.entries() == PAGE_ENTRIES && self.bounds.positions.1 <= query && query < self.bounds.expires_at.0
    }

    /// Whether a query sees any entry.
    pub(super) fn is_seen(&self, query: u32) -> bool {
        let mut lifetimes = self.positions.iter().zip(self.expires_at);
        lifetimes.any(|(&position, &expires_at)| sees(query, position, expires_at))
    }
}

#[inline(always)]
fn sees(query: u32, position: u32, expires_at: u32) -> bool {
    // Not `&&`: a branch per entry would keep the loop from becoming a vector comparison.
    (position <= query) & (query < expires_at)
}

/// Finds the bounds of a page.
struct Look<'a> {
    positions: &'a [u32],
    expires_at: &'a [u32],
}

impl Kernel for Look<'_> {
    type Output = Bounds;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Bounds {
        Bounds { positions: bounds(simd, self.positions), expires_at: bounds(simd, self.expires_at) }
    }
}

#[inline(always)]
fn bounds<S: Simd>(simd: S, all: &[u32]) -> (u32, u32) {
    match all.first_chunk() {
        Some(page) => simd.bounds(page),
        None => (all.iter().copied().fold(u32::MAX, u32::min), all.iter().copied().fold(0, u32::max)),
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
            // Fits: check() bounded the item's last position.
            let query = query + of_query as u32;
            hide(row, sights, query);
            let mut largest = simd.splat(f32::NEG_INFINITY);
            for chunk in row.chunks_exact(S::LANES) {
                largest = simd.max(largest, simd.read(chunk));
            }
            let top = maximum.max(simd.largest(largest));
            // A row that has seen nothing must not become 0/0, but one whose scores are all NaN must not hide it.
            if top == f32::NEG_INFINITY && !sights.iter().any(|sight| sight.is_seen(query)) {
                row.fill(0.0);
                continue;
            }
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
pub(super) fn hide(row: &mut [f32], sights: &[Sight<'_>], query: u32) {
    for (scores, sight) in row.chunks_exact_mut(PAGE_ENTRIES).zip(sights) {
        if sight.is_wholly_seen(query) {
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
