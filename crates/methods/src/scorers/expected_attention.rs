//! `expected_attention`: what future queries will look at, if they are like those so far.

use super::Reduction;
use super::attention::{dot, heads, norm, softmax};
use super::rotation::turned;

/// Expected attention's settings; see [`ExpectedAttention::score`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedAttention {
    /// First entries, which stay; their queries are not like others and are left out.
    pub sinks: usize,
    /// Whether the spread of the queries counts, or their mean alone.
    pub covariance: bool,
    /// Whether scores are multiplied by the length of the value.
    pub value_norm: bool,
    /// Added to the probability before that, so that long values are not lost.
    pub epsilon: f32,
}

impl ExpectedAttention {
    /// Scores `[n]`: softmax over the entries of q.k s + kCk s^2 / 2, averaged over the group, times the value's length. q and C
    /// are mean and covariance of the queries, turned by the mean rotation of the positions that will come.
    ///
    /// `raw_queries` `[group, m, d]`: those of the m tokens after the sinks, BEFORE rotation; `rotation` the cosines and sines
    /// `[d / 2]` of [`super::mean_rotation`] over the next positions (512 in the original), ones and zeros where the model has
    /// none; `scale` s is 1 / sqrt(d) in the original.
    ///
    /// Devoto, Jeblick, Jégou 2025, arXiv 2510.00636, equations 6 to 8; kvpress `ExpectedAttentionPress`. group (m + n) d^2
    /// operations and d^2 numbers of memory.
    #[must_use]
    pub fn score(
        &self,
        raw_queries: &[f32],
        keys: &[f32],
        values: &[f32],
        (width, group): (usize, usize),
        scale: f32,
        rotation: (&[f32], &[f32]),
    ) -> Vec<f32> {
        let width = width.max(1);
        let n = keys.len() / width;
        let judged = &keys[n.min(self.sinks) * width..];
        let entries = judged.len() / width;
        let mut probabilities = Vec::with_capacity(group * entries);
        for queries in heads(raw_queries, group) {
            let expected = Expected::of(queries, width, self.covariance, rotation);
            let mut logits: Vec<f32> =
                judged.chunks_exact(width).map(|key| expected.logit(key, scale)).collect();
            softmax(&mut logits);
            probabilities.extend(logits);
        }
        let mut scores = vec![f32::INFINITY; n - entries];
        scores.extend(Reduction::Mean.reduce(&probabilities, group));
        if self.value_norm {
            let judged = scores.iter_mut().zip(values.chunks_exact(width)).skip(self.sinks);
            judged.for_each(|(score, value)| *score = (*score + self.epsilon) * norm(value));
        }
        scores
    }
}

/// The queries of one head that are to come.
struct Expected {
    mean: Vec<f32>,
    /// `[d, d]`, or nothing.
    covariance: Vec<f32>,
}

impl Expected {
    fn of(queries: &[f32], width: usize, covariance: bool, (cosines, sines): (&[f32], &[f32])) -> Self {
        let count = (queries.len() / width).max(1) as f64;
        let mut sums = vec![0.0_f64; width];
        for query in queries.chunks_exact(width) {
            sums.iter_mut().zip(query).for_each(|(sum, &number)| *sum += f64::from(number));
        }
        let mut mean: Vec<f32> = sums.iter().map(|sum| (sum / count) as f32).collect();
        let mut spread = vec![0.0_f64; if covariance { width * width } else { 0 }];
        if covariance {
            for query in queries.chunks_exact(width) {
                let centred: Vec<f64> =
                    query.iter().zip(&mean).map(|(&number, &mean)| f64::from(number - mean)).collect();
                for (row, &left) in spread.chunks_exact_mut(width).zip(&centred) {
                    row.iter_mut().zip(&centred).for_each(|(sum, &right)| *sum += left * right);
                }
            }
        }
        let mut spread: Vec<f32> = spread.iter().map(|sum| (sum / count) as f32).collect();
        turned(&mut mean, cosines, sines);
        // R C R^T: its rows turned, then, as C is symmetric, the rows of what that is when it lies on its side.
        for _ in 0..2 {
            spread.chunks_exact_mut(width).for_each(|row| turned(row, cosines, sines));
            for row in 0..spread.len() / width {
                for column in 0..row {
                    spread.swap(row * width + column, column * width + row);
                }
            }
        }
        Self { mean, covariance: spread }
    }

    /// ln E[exp(s q.k)] for normal q.
    fn logit(&self, key: &[f32], scale: f32) -> f32 {
        let rows = self.covariance.chunks_exact(key.len().max(1));
        let spread: f32 = rows.zip(key).map(|(row, &number)| number * dot(row, key)).sum();
        scale * dot(&self.mean, key) + scale * scale * spread / 2.0
    }
}
