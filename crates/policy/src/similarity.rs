//! How much a layer changes a token.

/// The cosine between two rows `[c]` in f64, which is near 1 where little was changed; of a row of zeros 0. As torch's
/// `cosine_similarity`, which takes no length for less than 1e-8.
#[must_use]
pub fn cosine(before: &[f32], after: &[f32]) -> f64 {
    const LEAST: f64 = 1e-8;
    let (mut product, mut first, mut second) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (&a, &b) in before.iter().zip(after) {
        let (a, b) = (f64::from(a), f64::from(b));
        product += a * b;
        first += a * a;
        second += b * b;
    }
    product / (first.sqrt().max(LEAST) * second.sqrt().max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_longer_is_the_same_and_what_is_nothing_is_not() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!((cosine(&[1.0, 2.0], &[-2.0, 1.0])).abs() < 1e-12);
        assert_eq!(cosine(&[0.0; 3], &[1.0; 3]), 0.0);
    }
}
