//! How surprising a text is.

/// Mean surprise in nats per unit: cross-entropy summed over a text, divided by its tokens (or words, or bytes). Without
/// units 0.
#[must_use]
pub fn mean_nats(nats: f64, units: u64) -> f64 {
    if units == 0 { 0.0 } else { nats / units as f64 }
}

/// Perplexity per unit, `exp(nats / units)`: 1 for a text that was certain. With words or bytes for units the number
/// can be compared between models with different tokenizers.
#[must_use]
pub fn perplexity(nats: f64, units: u64) -> f64 {
    mean_nats(nats, units).exp()
}

/// Mean surprise in bits per unit.
#[must_use]
pub fn bits(nats: f64, units: u64) -> f64 {
    mean_nats(nats, units) / std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_evenly_among_n_is_a_perplexity_of_n() {
        let nats = 5.0 * 32_f64.ln();
        assert!((perplexity(nats, 5) - 32.0).abs() < 1e-12);
        assert!((bits(nats, 5) - 5.0).abs() < 1e-12);
    }

    #[test]
    fn an_empty_text_is_certain() {
        assert_eq!((perplexity(0.0, 0), mean_nats(0.0, 0), bits(0.0, 0)), (1.0, 0.0, 0.0));
    }
}
