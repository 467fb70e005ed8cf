//! What the query heads of a group say together.

/// How the numbers of the query heads that share a KV head become one.
///
/// A sum would order entries as the mean does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// Their mean, as kvpress and most others do.
    #[default]
    Mean,
    /// The largest: an entry stays if one head needs it.
    Max,
}

impl Reduction {
    /// `[group, n]` -> `[n]`.
    #[must_use]
    pub fn reduce(self, rows: &[f32], group: usize) -> Vec<f32> {
        let group = group.max(1);
        let n = rows.len() / group;
        let column = |entry: usize| (0..group).map(move |head| rows[head * n + entry]);
        (0..n)
            .map(|entry| match self {
                // `f32::max` would lose a NaN, and a broken score must not pass for a good one.
                Self::Max => {
                    column(entry).fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a })
                }
                Self::Mean => column(entry).sum::<f32>() / group as f32,
            })
            .collect()
    }
}
