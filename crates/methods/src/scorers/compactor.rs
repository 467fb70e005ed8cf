//! `compactor`: keys that stand alone, and those that their neighbours look at.

use super::attention::{Rows, heads, norm};
use super::{Pooling, Reduction};

/// Compactor's settings; see [`Compactor::score`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compactor {
    /// First entries, which stay and are not judged.
    pub first: usize,
    /// Newest entries, which stay and are not judged.
    pub last: usize,
    /// What leverage weighs against attention; the share that is REMOVED in kvpress.
    pub blending: f32,
}

impl Compactor {
    /// Scores of every head `[g][n]` from the [`super::leverage`] and [`non_causal_attention`] of the entries between the first and
    /// the last, `[g][n - first - last]` each: both as z-scores over all heads together, blended; the ends are infinite.
    ///
    /// Chari, Van Durme 2025, arXiv 2507.08143; kvpress `CompactorPress`.
    #[must_use]
    pub fn score(&self, leverage: Vec<Vec<f32>>, attention: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        let (leverage, attention) = (z_scores(leverage), z_scores(attention));
        let blended = |(leverage, attention): (Vec<f32>, Vec<f32>)| {
            let judged = leverage.iter().zip(&attention).map(|(l, a)| self.blending * l + a);
            let ends = |count: usize| std::iter::repeat_n(f32::INFINITY, count);
            ends(self.first).chain(judged).chain(ends(self.last)).collect()
        };
        leverage.into_iter().zip(attention).map(blended).collect()
    }
}

/// Numbers of all heads less their common mean, in units of their common standard deviation (unbiased, at least 1e-6).
pub(super) fn z_scores(mut heads: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let count = heads.iter().map(Vec::len).sum::<usize>() as f64;
    let numbers = || heads.iter().flatten().map(|&number| f64::from(number));
    let mean = numbers().sum::<f64>() / count.max(1.0);
    let squares: f64 = numbers().map(|number| (number - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0).max(1.0)).sqrt().max(1e-6);
    heads.iter_mut().flatten().for_each(|number| *number = ((f64::from(*number) - mean) / deviation) as f32);
    heads
}

/// How much the tokens around an entry look at it, `[n]`: softmax over chunks of `chunk` entries, all of a chunk seeing each
/// other, summed over the chunk's queries, averaged over the group, times the value's length, pooled over 3.
/// `queries` `[group, n, d]`, one per entry. 2 group n chunk d operations.
///
/// kvpress `NonCausalAttnPress`, whose numbers these are to the last quirk: logits are not scaled by 1 / sqrt(d), and the last
/// chunk is filled up with keys of logit 0 that take their share, and with queries that look at everything evenly.
#[must_use]
pub fn non_causal_attention(
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    (width, group): (usize, usize),
    chunk: usize,
) -> Vec<f32> {
    let (width, chunk) = (width.max(1), chunk.max(1));
    let n = keys.len() / width;
    let mut sums = vec![0.0_f32; group * n];
    for (queries, sums) in heads(queries, group).zip(sums.chunks_exact_mut(n.max(1))) {
        let parts = queries.chunks(chunk * width).zip(keys.chunks(chunk * width)).zip(sums.chunks_mut(chunk));
        for ((queries, keys), sums) in parts {
            let missing = chunk - sums.len();
            sums.fill(missing as f32 / chunk as f32);
            // Keys that are not there, as the zeros that they are in the original.
            let padded: Vec<f32> =
                keys.iter().copied().chain(std::iter::repeat_n(0.0, missing * width)).collect();
            Rows { queries, keys: &padded, width, scale: 1.0 }.visit(
                |_, _| (),
                |probabilities| {
                    sums.iter_mut().zip(probabilities).for_each(|(sum, probability)| *sum += probability);
                },
            );
        }
    }
    let mut scores = Reduction::Mean.reduce(&sums, group);
    scores.iter_mut().zip(values.chunks_exact(width)).for_each(|(score, value)| *score *= norm(value));
    Pooling::Average.pool(&scores, 3)
}
