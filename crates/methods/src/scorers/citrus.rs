//! `citrus`: what the newest chunk looks at.

/// What entries are worth: the attention that a chunk gave them, summed over heads and queries, `[n]`; the chunk's own, which
/// have not been judged before, are infinite.
///
/// Bai et al. 2024, arXiv 2406.12018, section 3; `generate_with_citrus` with the cache `standard`, which takes means: all
/// entries are seen by as many queries, so the order is the same.
#[must_use]
pub fn citrus(mut sums: Vec<f32>, is_own: impl Fn(usize) -> bool) -> Vec<f32> {
    sums.iter_mut().enumerate().filter(|(entry, _)| is_own(*entry)).for_each(|(_, sum)| *sum = f32::INFINITY);
    sums
}
