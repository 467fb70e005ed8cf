//! Heads that a profile names.

/// Entries per KV head `[L][g]` from scores of QUERY heads `[L][h]` (of how much a head retrieves), when `base` are kept on
/// average: `floor(base shared)` of each head's budget are shared by score, and every head has the rest. A KV head gets the rounded
/// mean of its group.
///
/// Fu, Cai, Asi, Xiong, Dong, Xiao 2024 (HeadKV), arXiv 2410.19258, section 3.3; KVCache-Factory `run_longbench.py` and
/// `HeadKVCluster`. The original has `beta` for `1 / shared`; roundings are half to even. Windows that stay in any case come on
/// top. Scores whose sum is not a positive number give every head `base`.
#[must_use]
pub fn head_capacities(scores: &[Vec<f64>], kv_heads: usize, base: usize, shared: f64) -> Vec<Vec<usize>> {
    let total: f64 = scores.iter().flatten().sum();
    let heads = scores.iter().map(Vec::len).sum::<usize>() as f64;
    let shared = (base as f64 * shared).floor();
    let capacity = |score: &f64| {
        if !(total.is_finite() && total > 0.0 && shared.is_finite()) {
            return base as f64;
        }
        (score / total * (shared * heads) + (base as f64 - shared)).round_ties_even().max(0.0)
    };
    let layer = |layer: &Vec<f64>| {
        let group = (layer.len() / kv_heads.max(1)).max(1);
        let mean = |group: &[f64]| group.iter().map(capacity).sum::<f64>() / group.len() as f64;
        layer.chunks(group).map(|group| mean(group).round_ties_even() as usize).collect()
    };
    scores.iter().map(layer).collect()
}

/// Which heads stream, `[L][g]`: the `round(L g sparsity)` (half to even) lowest gates of the table; the others see everything.
///
/// Xiao et al. 2024 (DuoAttention), arXiv 2410.10819, section 2.4. Gates count as clipped to [0, 1], as in the original and in
/// kvpress; of equal gates (a fifth of the published ones are exactly 1) those of lower layers and heads stream first, where
/// the original lets noise decide. NaN streams before all.
#[must_use]
pub fn streaming_heads(gates: &[Vec<f64>], sparsity: f64) -> Vec<Vec<bool>> {
    let mut places: Vec<(f64, usize, usize)> = Vec::new();
    for (layer, heads) in gates.iter().enumerate() {
        let gate = |(head, &gate): (usize, &f64)| {
            (if gate.is_nan() { -1.0 } else { gate.clamp(0.0, 1.0) }, layer, head)
        };
        places.extend(heads.iter().enumerate().map(gate));
    }
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let count = (places.len() as f64 * sparsity).round_ties_even() as usize;
    let mut streams: Vec<Vec<bool>> = gates.iter().map(|heads| vec![false; heads.len()]).collect();
    places.iter().take(count).for_each(|&(_, layer, head)| streams[layer][head] = true);
    streams
}
