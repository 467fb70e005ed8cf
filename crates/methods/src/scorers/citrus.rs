//! `citrus`: what an instruction, or the newest chunk, looks at.

use super::reduction::layer_mean;

/// The mean probability over all query heads of the layer and over the `queries` of a chunk or an instruction: per KV head the
/// mass `[group, n]` -> `[n]`, for all heads alike. Of those entries the first `old` are judged; the chunk's own are
/// infinite. h n operations.
///
/// Bai et al. 2024, arXiv 2406.12018, section 3; `generate_with_citrus`. The chunk that attends is a parameter of the method;
/// whose queries they are (`standard`: the chunk's, `instruction_aware`: the instruction's) is the caller's.
#[must_use]
pub fn citrus(masses: &[&[f32]], group: usize, queries: usize, old: usize) -> Vec<f32> {
    let mut scores = layer_mean(masses, group);
    let old = old.min(scores.len());
    let (judged, own) = scores.split_at_mut(old);
    judged.iter_mut().for_each(|score| *score /= queries.max(1) as f32);
    own.fill(f32::INFINITY);
    scores
}
