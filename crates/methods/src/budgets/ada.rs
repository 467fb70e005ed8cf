//! `ada`: heads of a layer share one budget.

use super::{by_worth, kept};

/// How many entries each head keeps when `count` per head are kept on average: the best of all heads together, but of each
/// head at least its own best `floor(count * safeguard)`. `scores` `[g][n]`, n may differ; sums to g `count` where
/// there are as many, exactly.
///
/// Feng, Lv, Cao, Xie, Zhou 2024, arXiv 2407.11550; kvpress `AdaKVPress` (`alpha_safeguard`, 0.2). The entries of a head are
/// its best so many: [`kept`]. Ties across heads go to the later entry, then to the higher head.
#[must_use]
pub fn ada_safeguarded(scores: &[Vec<f32>], count: usize, safeguard: f64) -> Vec<usize> {
    let total = scores.len().saturating_mul(count);
    let safe = (count as f64 * safeguard) as usize;
    let mut lengths: Vec<usize> = scores.iter().map(|head| safe.min(head.len())).collect();
    let rest = total.saturating_sub(lengths.iter().sum());
    let mut others: Vec<(f32, usize, usize)> = Vec::new();
    for (head, scores) in scores.iter().enumerate() {
        let mut is_safe = vec![false; scores.len()];
        kept(scores, safe).into_iter().for_each(|entry| is_safe[entry] = true);
        let unsafe_entries = scores.iter().zip(&is_safe).enumerate().filter(|(_, (_, is_safe))| !**is_safe);
        others.extend(unsafe_entries.map(|(entry, (&score, _))| (score, entry, head)));
    }
    best(&mut others, rest).iter().for_each(|&(_, _, head)| lengths[head] += 1);
    lengths
}

/// How many entries each head keeps, by the original's own rule: c of each head are among the best g `base` of all, and it
/// keeps `round(c (1 - floor) + int(base floor))` (half to even). The sum may differ from g `base` by rounding. A head's
/// scores are first multiplied by the share that its best `base` have of its total, so that heads that look everywhere do
/// not win by it (`normalize`, the original's default).
///
/// Feng et al. 2024, algorithm 2; KVCache-Factory `AdaKVCluster`. Windows that stay in any case are neither in `scores` nor in
/// `base`.
#[must_use]
pub fn ada_interpolated(scores: &[Vec<f32>], base: usize, floor: f64) -> Vec<usize> {
    let mut all: Vec<(f32, usize, usize)> = Vec::new();
    for (head, scores) in scores.iter().enumerate() {
        let best: f32 = kept(scores, base).into_iter().map(|entry| scores[entry]).sum();
        let factor = best / scores.iter().sum::<f32>();
        all.extend(scores.iter().enumerate().map(|(entry, &score)| (score * factor, entry, head)));
    }
    let mut counts = vec![0_usize; scores.len()];
    best(&mut all, scores.len().saturating_mul(base)).iter().for_each(|&(_, _, head)| counts[head] += 1);
    let least = (base as f64 * floor).floor();
    let length = |(count, head): (usize, &Vec<f32>)| {
        let wanted = (count as f64 * (1.0 - floor) + least).round_ties_even() as usize;
        wanted.min(head.len())
    };
    counts.into_iter().zip(scores).map(length).collect()
}

/// The `count` best (score, entry, head), in no order.
fn best(entries: &mut [(f32, usize, usize)], count: usize) -> &[(f32, usize, usize)] {
    if count == 0 || count >= entries.len() {
        return &entries[..count.min(entries.len())];
    }
    entries.select_nth_unstable_by(count - 1, |a, b| by_worth(b.0, a.0).then((b.1, b.2).cmp(&(a.1, a.2))));
    &entries[..count]
}
