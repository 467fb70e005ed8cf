//! Neighbours lend each other their scores.

/// How a score is blended with those around it: what was read in one piece should stay in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// The mean over the kernel; places beyond the ends count as zeros (torch's `avg_pool1d` with its defaults).
    #[default]
    Average,
    /// The largest within the kernel; places beyond the ends do not count.
    Max,
}

impl Pooling {
    /// The pooled scores, `[n]` -> `[n]`, for an odd kernel (an even one counts as the next odd one, 0 as 1).
    #[must_use]
    pub fn pool(self, scores: &[f32], kernel: usize) -> Vec<f32> {
        let reach = kernel / 2;
        let width = (2 * reach + 1) as f32;
        (0..scores.len())
            .map(|at| {
                let around =
                    &scores[at.saturating_sub(reach)..scores.len().min(at.saturating_add(reach + 1))];
                match self {
                    Self::Average => around.iter().sum::<f32>() / width,
                    Self::Max => {
                        around.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a || b.is_nan() { b } else { a })
                    }
                }
            })
            .collect()
    }
}
