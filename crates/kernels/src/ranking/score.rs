//! What entries are worth, as data.

/// How entries are scored; the larger stays. The scores are those of the functions of the same names in
/// `crates/methods/src/scorers`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Score {
    /// Minus the length of the key (`knorm`).
    KeyNorm,
    /// Minus the cosine between the key and the mean direction of all keys (`keydiff`).
    KeyDifference,
    /// Uniform: a function of seed, layer, head and position (`random`).
    Noise {
        /// What tells one run from another.
        seed: u64,
    },
    /// How far keys and values spread over their channels, scaled by the partition of entries that follows (`lagkv`).
    Lag {
        /// First entries, which stay.
        sinks: u32,
        /// Entries of a partition.
        lag: u32,
        /// Whether scores of different partitions are compared as they are, otherwise by their ranks.
        across: bool,
    },
    /// The probability that queries to come are expected to give, if they are like those of the prompt
    /// (`expected_attention`).
    Expected {
        /// First entries, which stay and whose queries do not count.
        sinks: u32,
        /// Next positions whose queries are expected.
        future: u32,
        /// Whether the covariance of the queries counts, beside their mean.
        covariance: bool,
        /// Whether the value's length is a factor.
        value_norm: bool,
        /// What is added to a probability before that.
        epsilon: f32,
    },
    /// The probability that the entry got from every query, which fades (`h2o`, `a2sf`, `tova`, `observed_attention`).
    Attention {
        /// What sums are multiplied by with each query: 1 keeps all, 0 looks at the newest query alone.
        factor: f32,
        /// Whether sums are divided by the queries that came since the entry's token, its own included.
        per_query: bool,
    },
    /// The probability that the entry got from a prompt's last queries, blended with that of its neighbours; their own
    /// entries are worth more than any (`snapkv`).
    Window {
        /// Queries that count.
        window: u32,
        /// Neighbours that are blended, itself included; odd.
        kernel: u32,
        /// Whether the largest of them counts, otherwise their mean.
        largest: bool,
        /// Whether the largest of the query heads that share a KV head counts, otherwise their mean.
        apart: bool,
    },
    /// The probability that the entry would have got from every query, had scores been noisy and softer (`keyformer`).
    Softened {
        /// What scores are divided by, with their noise.
        temperature: f32,
        /// What tells one run's noise from another's; none is no noise.
        seed: Option<u64>,
    },
    /// The probability that the entry gets from a prompt's last queries, which look at everything, also at what comes behind them;
    /// part of what a budget leaves beside floors is drawn, the likelier the more they give (`nacl`).
    Drawn {
        /// Queries that count.
        proxies: u32,
        /// The share that is drawn.
        chance: f64,
        /// What tells one run from another.
        seed: u64,
    },
    /// The probability that the entry got since some went for the last time; what has come since stays beside the budget
    /// (`citrus`).
    Since,
    /// How alone a key stands among all, and how much its neighbours look at it (`compactor`).
    Compact {
        /// First entries, which are worth more than any.
        first: u32,
        /// Newest entries, which are too.
        last: u32,
        /// Entries that see each other; at least 1.
        chunk: u32,
        /// Columns of the random sketch of keys, 1 to [`Score::MOST_COLUMNS`].
        columns: u32,
        /// What the first weighs beside the second.
        blending: f32,
        /// What tells one sketch from another.
        seed: u64,
    },
}

impl Score {
    /// Most columns of a sketch of keys.
    pub const MOST_COLUMNS: u32 = super::compactor::MOST_COLUMNS;

    /// f32 numbers that it needs beside an entry.
    #[must_use]
    pub fn statistics(self) -> usize {
        // The second says whether the entry has been there when some went.
        if matches!(self, Self::Since) { 2 } else { 1 }
    }

    /// Whether it is made of what queries give entries, one after the other.
    #[must_use]
    pub fn attends(self) -> bool {
        use Score::{Attention, Drawn, Since, Softened, Window};
        matches!(self, Attention { .. } | Window { .. } | Softened { .. } | Drawn { .. } | Since)
    }

    /// Whether what attention tells of its rows in a prompt ([`crate::attention::DeviceAttention::prefill`]) is of use: it is the same
    /// probability, summed over heads.
    #[must_use]
    pub fn hears(self) -> bool {
        matches!(self, Self::Attention { .. } | Self::Window { apart: false, .. } | Self::Since)
    }

    /// How many of the newest queries count: what older ones weigh together is below the rounding of an f32.
    #[must_use]
    pub fn horizon(self) -> u32 {
        match self {
            Self::KeyNorm | Self::KeyDifference | Self::Noise { .. } | Self::Lag { .. } => 0,
            Self::Expected { .. } | Self::Compact { .. } | Self::Softened { .. } | Self::Since => u32::MAX,
            Self::Window { window, .. } => window,
            Self::Drawn { proxies, .. } => proxies,
            Self::Attention { factor, .. } if factor >= 1.0 => u32::MAX,
            Self::Attention { factor, .. } => {
                let factor = f64::from(factor.max(0.0));
                // The tail of the geometric series, factor^m / (1 - factor), against a whole probability. A factor of 0 gives
                // a quotient of 0.
                let queries = ((1.0 - factor) * f64::from(f32::EPSILON)).ln() / factor.ln();
                (queries.ceil() as u32).max(1)
            }
        }
    }

    /// Whether sums go on from step to step, so that steps of a prompt before its last count too.
    #[must_use]
    pub fn gathers(self) -> bool {
        matches!(self, Self::Attention { .. } | Self::Softened { .. } | Self::Since) && self.horizon() > 1
    }
}

#[cfg(test)]
mod tests {
    use super::Score;

    #[test]
    fn only_queries_that_can_be_told_from_rounding_count() {
        let horizon = |factor| Score::Attention { factor, per_query: false }.horizon();
        assert_eq!([horizon(0.0), horizon(1.0)], [1, u32::MAX]);
        for factor in [0.2f32, 0.5, 0.95] {
            let tail = |queries: u32| f64::from(factor).powi(queries as i32) / (1.0 - f64::from(factor));
            let queries = horizon(factor);
            assert!(tail(queries) <= f64::from(f32::EPSILON) && tail(queries - 1) > f64::from(f32::EPSILON));
        }
    }
}
