//! `observed_attention`: attention per query that could have given it.

/// Sums of attention `[n]` per query that saw the entry, so that early entries lose their start; `positions` `[n]`, and `next`,
/// the position after the last query.
///
/// kvpress `ObservedAttentionPress`.
#[must_use]
pub fn observed_attention(sums: &[f32], positions: &[u32], next: u32) -> Vec<f32> {
    let queries = |position: u32| next.saturating_sub(position).max(1) as f32;
    sums.iter().zip(positions).map(|(sum, &position)| sum / queries(position)).collect()
}
