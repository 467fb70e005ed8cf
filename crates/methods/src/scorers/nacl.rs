//! `nacl`: what the last queries look at, and some chance.

use std::ops::Range;

use super::Reduction;
use super::attention::{Rows, heads};
use super::{Noise, Place};
use crate::budgets::kept;

/// The probability that the proxy queries `[group, w, d]` give each entry `[n, d]`, summed over them: `[n]`, the group's mean.
/// 2 group w n d operations.
///
/// Chen et al. 2024, arXiv 2408.03675, section 3.2 (proxy-token eviction); `kvcache_eviction`. The softmax is over ALL entries:
/// the original calls its attention without the causal mask, so an early proxy also sees the later ones. The original takes
/// one query head's score for a KV head that several share; ours is the mean of the group.
#[must_use]
pub fn nacl(queries: &[f32], keys: &[f32], width: usize, group: usize, scale: f32) -> Vec<f32> {
    let n = keys.len() / width.max(1);
    let mut sums = vec![0.0_f32; n * group];
    for (queries, sums) in heads(queries, group).zip(sums.chunks_exact_mut(n.max(1))) {
        Rows { queries, keys, width, scale }.visit(
            |_, _| (),
            |probabilities| {
                sums.iter_mut().zip(probabilities).for_each(|(sum, probability)| *sum += probability);
            },
        );
    }
    Reduction::Mean.reduce(&sums, group)
}

/// Ranks `[n]` whose best k entries are NACL's choice: what lies outside `middle` and the `top` best scores within it are
/// infinite; the others are drawn without replacement with probability softmax(score).
///
/// Section 3.3 (random eviction). Drawing is by Gumbel's trick: the largest k of score + noise are such a sample, and the
/// noise is a function of the place alone, so neither chunks nor neighbours change it. Scores are sums of probabilities, so
/// the softmax over them is nearly even, as in the original.
#[must_use]
pub fn nacl_draw(
    scores: &[f32],
    middle: Range<usize>,
    top: usize,
    noise: &Noise,
    place: impl Fn(usize) -> Place,
) -> Vec<f32> {
    let middle = middle.start.min(scores.len())..middle.end.min(scores.len());
    let mut ranks = vec![f32::INFINITY; scores.len()];
    if middle.is_empty() {
        return ranks;
    }
    for entry in middle.clone() {
        ranks[entry] = scores[entry] + noise.gumbel(place(entry));
    }
    for best in kept(&scores[middle.clone()], top) {
        ranks[middle.start + best] = f32::INFINITY;
    }
    ranks
}
