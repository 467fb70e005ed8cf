//! The best of one head.

use std::cmp::Ordering;

/// Compares two scores: NaN is below everything, -0 equals 0.
#[must_use]
pub fn by_worth(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// The places of the `count` best scores, ascending; all if there are no more. Of equal scores the later entry stays.
/// O(n) beside sorting what is kept.
#[must_use]
pub fn kept(scores: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    if count < places.len() {
        if count > 0 {
            places.select_nth_unstable_by(count - 1, |&a, &b| by_worth(scores[b], scores[a]).then(b.cmp(&a)));
        }
        places.truncate(count);
        places.sort_unstable();
    }
    places
}
