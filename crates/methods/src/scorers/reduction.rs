//! What the query heads of a group say together.

/// How the numbers of the query heads that share a KV head become one.
///
/// Within a head the mean and the sum order entries alike; they differ where heads of groups are compared by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// Their mean, as kvpress and most others do.
    #[default]
    Mean,
    /// The largest: an entry stays if one head needs it.
    Max,
    /// Their sum.
    Sum,
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
                Self::Sum => column(entry).sum(),
                Self::Mean => column(entry).sum::<f32>() / group as f32,
            })
            .collect()
    }
}

/// The mean over all query heads of a layer, one `[group, n]` per KV head -> `[n]`.
pub(super) fn layer_mean(masses: &[&[f32]], group: usize) -> Vec<f32> {
    let heads = masses.len().max(1);
    let n = masses.iter().map(|mass| mass.len() / group.max(1)).min().unwrap_or(0);
    let mut mean = vec![0.0; n];
    for mass in masses {
        let head = Reduction::Mean.reduce(mass, group);
        mean.iter_mut().zip(head).for_each(|(sum, probability)| *sum += probability);
    }
    mean.iter_mut().for_each(|sum| *sum /= heads as f32);
    mean
}
