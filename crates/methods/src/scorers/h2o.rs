//! `h2o`: heavy hitters, by all the attention they ever got.

use super::Reduction;

/// Adds what a step's queries gave to the sums of all before: `sums` `[n]`, `mass` `[group, n]` summed over the step.
///
/// Zhang et al. 2023, arXiv 2306.14048, algorithm 1; `H2OKVCache_LayerWise`, which is written for one query head per KV head:
/// `reduction` is KVCache-Factory's `gqa_score_agg` for groups. The score is the sum itself. A new entry begins at 0, so new
/// entries need a window of recent ones that stay. (group + 1) n operations a step.
pub fn h2o_accumulate(sums: &mut [f32], mass: &[f32], group: usize, reduction: Reduction) {
    let seen = reduction.reduce(mass, group);
    sums.iter_mut().zip(seen).for_each(|(sum, probability)| *sum += probability);
}

/// The sums of [`h2o_accumulate`] per query that saw the entry: early entries lose their start. `positions` `[n]`, and `next`,
/// the position after the last query.
///
/// kvpress `ObservedAttentionPress`.
#[must_use]
pub fn observed_attention(sums: &[f32], positions: &[u32], next: u32) -> Vec<f32> {
    let queries = |position: u32| next.saturating_sub(position).max(1) as f32;
    sums.iter().zip(positions).map(|(sum, &position)| sum / queries(position)).collect()
}
