//! One slice cut into pieces that the threads of a team write.

use std::marker::PhantomData;
use std::ops::Range;

use crate::Team;

/// Elements that a task should have at least: a few microseconds of simple arithmetic, well above a fork-join.
pub(crate) const TASK_ELEMENTS: usize = 1 << 14;

/// Calls `body(first_row, rows)` for pieces of `data`, cut between rows of `width`, on the threads of the team; a
/// small slice is one piece, on the calling thread.
pub(crate) fn for_each_piece(
    team: &Team,
    data: &mut [f32],
    width: usize,
    body: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    let rows_each = (TASK_ELEMENTS / width.max(1)).max(1);
    let piece = rows_each * width;
    if piece == 0 || data.len() <= piece {
        return body(0, data);
    }
    let count = data.len().div_ceil(piece);
    let pieces = Pieces::new(data);
    team.run(count, &|task| {
        // SAFETY: each task is handed out once, so each range is borrowed once.
        body(task * rows_each, unsafe { pieces.range(task * piece, piece) });
    });
}

/// Most partial sums that [`sum_over_rows`] makes, and the fewest rows worth one.
const MOST_PARTIALS: usize = 64;
const ROWS_PER_PARTIAL: usize = 16;

/// What adds up a range of rows into partial sums.
pub(crate) type Summation<'a, const N: usize> = dyn Fn(Range<usize>, [&mut [f32]; N]) + Sync + 'a;

/// Calls `body(rows, partials)` for ranges of `0..rows` on the threads of the team, and adds each range's partial sums,
/// which begin at zero, to `totals` in the order of the ranges. How the rows are cut depends on their number only.
pub(crate) fn sum_over_rows<const N: usize>(
    team: &Team,
    rows: usize,
    totals: [&mut [f32]; N],
    body: &Summation<'_, N>,
) {
    let widths = totals.each_ref().map(|total| total.len());
    let width: usize = widths.iter().sum();
    let rows_each = rows.div_ceil(MOST_PARTIALS).max(ROWS_PER_PARTIAL);
    let count = rows.div_ceil(rows_each);
    let mut partials = vec![0.0; count * width];
    let pieces = Pieces::new(&mut partials);
    team.run(count, &|task| {
        let mut at = task * width;
        let parts = widths.map(|width| {
            at += width;
            // SAFETY: each partial is one task's.
            unsafe { pieces.range(at - width, width) }
        });
        body(task * rows_each..rows.min((task + 1) * rows_each), parts);
    });
    let mut at = 0;
    for total in totals {
        for partial in 0..count {
            let from = &partials[partial * width + at..][..total.len()];
            total.iter_mut().zip(from).for_each(|(total, x)| *total += x);
        }
        at += total.len();
    }
}

/// A slice that several threads write, each at places of its own.
pub(crate) struct Pieces<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `range`, whose contract keeps threads apart.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    /// Takes the slice for as long as any piece of it lives.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// Up to `count` elements from `at`, as many as there are.
    ///
    /// # Safety
    /// No element may be in two living ranges.
    #[inline]
    pub(crate) unsafe fn range(&self, at: usize, count: usize) -> &'a mut [T] {
        let at = at.min(self.len);
        // SAFETY: inside the slice; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), count.min(self.len - at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_piece() {
        let team = Team::new(2).unwrap();
        for (rows, width) in [(0, 3), (1, 1), (7, 5), (40, 1000), (3, 40_000), (20_001, 2)] {
            let mut data = vec![0.0; rows * width];
            for_each_piece(&team, &mut data, width, &|first, piece| {
                for (i, row) in piece.chunks_mut(width).enumerate() {
                    assert_eq!(row.len(), width);
                    row.iter_mut().for_each(|x| *x += (first + i) as f32 + 1.0);
                }
            });
            assert!(data.iter().enumerate().all(|(i, &x)| x == (i / width) as f32 + 1.0));
        }
    }
}
