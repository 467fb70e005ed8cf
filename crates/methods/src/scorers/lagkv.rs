//! `lagkv`: what stands out against the part of the text that follows.

use super::attention::softmax;

/// LagKV's settings; see [`LagKv::score`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LagKv {
    /// First entries, which stay.
    pub sinks: usize,
    /// Entries of a partition, at least 1.
    pub lag: usize,
    /// Whether scores of different partitions are compared as they are; otherwise by their rank within each, so that every
    /// partition keeps about as many.
    pub across: bool,
}

impl LagKv {
    /// Scores `[n]`: behind the sinks the entries lie in partitions of `lag`; each channel of a key and a value is scaled by the
    /// least and the largest of the NEXT partition, and what spreads most over its channels scores highest. The last
    /// whole partition, which has no successor, and what is left over score 1, above all others.
    ///
    /// Liang, Zhang, Li, Li 2025, arXiv 2504.04704, equations 3 to 9; kvpress `LagKVPress`. 8 n d operations. Fewer than two
    /// partitions: scores rise with the place. Sinks are infinite, where the original gives them 1, too: with a budget below
    /// sinks and tail its choice among equals dropped every sink (and cost 0.85 nats).
    #[must_use]
    pub fn score(&self, keys: &[f32], values: &[f32], width: usize) -> Vec<f32> {
        let (width, lag) = (width.max(1), self.lag.max(1));
        let n = (keys.len() / width).min(values.len() / width);
        let sinks = self.sinks.min(n);
        let mut scores = vec![f32::INFINITY; sinks];
        let (partitions, judged) = ((n - sinks) / lag, n - sinks);
        if partitions < 2 {
            scores.extend((0..judged).map(|at| at as f32 / judged as f32));
            return scores;
        }
        for partition in 0..partitions - 1 {
            let first = (sinks + partition * lag) * width;
            let part = |numbers: &[f32]| {
                let (this, next) = numbers[first..first + 2 * lag * width].split_at(lag * width);
                spreads(this, next, width)
            };
            let both = part(keys).into_iter().zip(part(values)).map(|(key, value)| (key + value) / 2.0);
            if self.across {
                scores.extend(both);
            } else {
                scores.extend(ranks(&both.collect::<Vec<_>>()).map(|rank| rank as f32 / lag as f32));
            }
        }
        scores.resize(n, 1.0);
        scores
    }
}

/// How much each row of `this` `[lag, d]` spreads in units of `next`: softmax of the standard deviation over channels.
fn spreads(this: &[f32], next: &[f32], width: usize) -> Vec<f32> {
    let mut least = vec![f32::INFINITY; width];
    let mut range = vec![f32::NEG_INFINITY; width];
    for row in next.chunks_exact(width) {
        least.iter_mut().zip(row).for_each(|(least, &number)| *least = least.min(number));
        range.iter_mut().zip(row).for_each(|(most, &number)| *most = most.max(number));
    }
    range.iter_mut().zip(&least).for_each(|(most, least)| *most -= least);
    let deviation = |row: &[f32]| {
        let scaled = || {
            row.iter()
                .zip(&least)
                .zip(&range)
                .map(|((&number, least), range)| f64::from((number - least) / range))
        };
        let mean = scaled().sum::<f64>() / width as f64;
        let squares: f64 = scaled().map(|number| (number - mean).powi(2)).sum();
        (squares / (width.max(2) - 1) as f64).sqrt() as f32
    };
    let mut spreads: Vec<f32> = this.chunks_exact(width).map(deviation).collect();
    softmax(&mut spreads);
    spreads
}

/// The place of each score in ascending order; of equals the later one is higher, and NaN is lowest.
fn ranks(scores: &[f32]) -> impl Iterator<Item = usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| crate::budgets::by_worth(scores[a], scores[b]));
    let mut ranks = vec![0; scores.len()];
    order.iter().enumerate().for_each(|(rank, &entry)| ranks[entry] = rank);
    ranks.into_iter()
}
