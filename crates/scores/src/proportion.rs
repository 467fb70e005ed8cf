//! Shares of examples, and how sure they are.

/// How many of so many examples went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proportion {
    /// Those that did.
    pub hits: u64,
    /// All of them.
    pub of: u64,
}

/// The quantile of the normal distribution that leaves 2.5 % on each side.
const Z: f64 = 1.959_963_984_540_054;

impl Proportion {
    /// Counts outcomes.
    pub fn count(outcomes: impl IntoIterator<Item = bool>) -> Self {
        outcomes
            .into_iter()
            .fold(Self::default(), |sum, hit| Self { hits: sum.hits + u64::from(hit), of: sum.of + 1 })
    }

    /// The share; 0 of no examples.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.hits as f64 / self.of as f64 }
    }

    /// The standard error of the share, as the mean of a sample with n - 1: what lm-evaluation-harness prints. 0 where
    /// there are fewer than two examples.
    #[must_use]
    pub fn standard_error(self) -> f64 {
        if self.of < 2 {
            return 0.0;
        }
        let share = self.share();
        (share * (1.0 - share) / (self.of - 1) as f64).sqrt()
    }

    /// Wilson's interval, which holds the true share in 95 % of all samples: honest also near 0 and 1, where the
    /// standard error is 0. (0, 1) for no examples.
    #[must_use]
    pub fn interval(self) -> (f64, f64) {
        if self.of == 0 {
            return (0.0, 1.0);
        }
        let (n, share) = (self.of as f64, self.share());
        let scale = 1.0 + Z * Z / n;
        let middle = (share + Z * Z / (2.0 * n)) / scale;
        let half = Z / scale * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// statsmodels 0.14, `proportion_confint(hits, of, method="wilson")`, to six digits.
    const WILSON: [(u64, u64, f64, f64); 3] =
        [(8, 10, 0.490162, 0.943318), (0, 20, 0.0, 0.161125), (200, 200, 0.981154, 1.0)];

    #[test]
    fn intervals_are_wilsons() {
        for (hits, of, low, high) in WILSON {
            let (from, to) = Proportion { hits, of }.interval();
            assert!((from - low).abs() < 1e-6 && (to - high).abs() < 1e-6, "{hits} of {of}: {from} {to}");
        }
        assert_eq!(Proportion::default().interval(), (0.0, 1.0));
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean_of_a_sample() {
        let outcomes = [true, true, false, true, false];
        let proportion = Proportion::count(outcomes);
        assert_eq!(proportion, Proportion { hits: 3, of: 5 });
        let sample = crate::Sample::of(outcomes.map(f64::from));
        assert!((proportion.standard_error() - sample.standard_error).abs() < 1e-12);
        assert_eq!(Proportion { hits: 1, of: 1 }.standard_error(), 0.0);
    }
}
