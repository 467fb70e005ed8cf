//! Numbers that were measured several times.

/// A mean and how sure it is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Sample {
    /// The mean; 0 of no values.
    pub mean: f64,
    /// The standard error of the mean, with n - 1; 0 of fewer than two values.
    pub standard_error: f64,
}

impl Sample {
    /// The mean of values that are independent of each other.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len() as f64;
        if values.is_empty() {
            return Self::default();
        }
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let standard_error = if values.len() < 2 { 0.0 } else { (squares / (n - 1.0) / n).sqrt() };
        Self { mean, standard_error }
    }
}

/// The value below which a share of all values lies, between two values in proportion, as numpy and llama-perplexity
/// have it; 0 of no values. `sorted` is in ascending order.
#[must_use]
pub fn quantile(sorted: &[f32], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share.clamp(0.0, 1.0) * last as f64;
    let below = place as usize;
    let (low, high) = (f64::from(sorted[below]), f64::from(sorted[(below + 1).min(last)]));
    low + (high - low) * (place - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_standard_error_is_that_of_a_sample() {
        // statistics.stdev([1, 2, 4]) / sqrt(3) of Python.
        let sample = Sample::of([1.0, 2.0, 4.0]);
        assert!((sample.mean - 7.0 / 3.0).abs() < 1e-12);
        assert!((sample.standard_error - 0.881_917_103_688_197).abs() < 1e-12);
        assert_eq!(Sample::of([3.0]), Sample { mean: 3.0, standard_error: 0.0 });
        assert_eq!(Sample::of([]), Sample::default());
    }

    #[test]
    fn quantiles_are_numpys() {
        // numpy.quantile([0, 1, 2, 10], [0.5, 0.99]).
        let sorted = [0.0, 1.0, 2.0, 10.0];
        assert!((quantile(&sorted, 0.5) - 1.5).abs() < 1e-12);
        assert!((quantile(&sorted, 0.99) - 9.76).abs() < 1e-9);
        assert_eq!((quantile(&sorted, 1.0), quantile(&[7.0], 0.3), quantile(&[], 0.5)), (10.0, 7.0, 0.0));
    }

    proptest! {
        #[test]
        fn a_quantile_lies_among_the_values_and_grows_with_its_share(
            mut values in prop::collection::vec(-1e3_f32..1e3, 1..40), share in 0.0..1.0_f64, more in 0.0..1.0_f64,
        ) {
            values.sort_by(f32::total_cmp);
            let (low, high) = (quantile(&values, share.min(more)), quantile(&values, share.max(more)));
            prop_assert!(low <= high + 1e-9);
            prop_assert!(low >= f64::from(values[0]) - 1e-9);
            prop_assert!(high <= f64::from(values[values.len() - 1]) + 1e-9);
        }
    }
}
