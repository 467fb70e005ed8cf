//! How much of the text is still seen.

/// Mean over the later half of the queries k of live entries / (k + 1), over all lanes: what is reported as keep
/// ratio. Early queries are left out because the floors alone keep most of what little there is.
///
/// `expires_at` holds lanes of `tokens` entries each. Exactly what inference would keep under the same lifetimes.
#[must_use]
pub fn keep_ratio(expires_at: &[u32], tokens: usize) -> f64 {
    let first = tokens / 2;
    let lanes = expires_at.len() / tokens.max(1);
    if lanes == 0 || first == tokens {
        return 1.0;
    }
    let mut change = vec![0_i64; tokens + 1];
    for lane in expires_at.chunks_exact(tokens) {
        for (position, &end) in lane.iter().enumerate() {
            change[position] += 1;
            change[(end as usize).min(tokens)] -= 1;
        }
    }
    let (mut live, mut sum) = (0_i64, 0.0);
    for (query, change) in change[..tokens].iter().enumerate() {
        live += change;
        if query >= first {
            sum += live as f64 / ((query + 1) * lanes) as f64;
        }
    }
    sum / (tokens - first) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_what_each_later_query_sees() {
        const NEVER: u32 = u32::MAX;
        // Query 2 sees entries 0, 2 of 3; query 3 sees 0, 3 of 4.
        assert_eq!(keep_ratio(&[NEVER, 2, 3, NEVER], 4), (2.0 / 3.0 + 2.0 / 4.0) / 2.0);
        // Two lanes are averaged.
        assert_eq!(keep_ratio(&[NEVER, NEVER, 1, 2], 2), (1.0 + 0.5) / 2.0);
        assert_eq!(keep_ratio(&[NEVER; 6], 6), 1.0);
    }
}
