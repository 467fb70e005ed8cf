//! Rotary frequencies against the definitions, written out once more in f64.

use std::f64::consts::PI;

use dropcap_model::{RopeConfig, RopeScaling};

/// Frequencies are computed in f32 by a power and a few operations; each rounds by at most 6e-8.
const TOLERANCE: f64 = 1e-6;

fn close(found: &[f32], expected: impl Iterator<Item = f64>) {
    let expected: Vec<f64> = expected.collect();
    assert_eq!(found.len(), expected.len());
    for (pair, (&found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(found) - expected).abs() <= TOLERANCE * expected,
            "pair {pair}: {found} {expected}"
        );
    }
}

fn plain(theta: f64, width: usize) -> impl Iterator<Item = f64> {
    (0..width / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / width as f64))
}

#[test]
fn frequencies_are_a_geometric_series() {
    let rope = RopeConfig { theta: 500_000.0, scaling: RopeScaling::Default };
    let (found, scaling) = rope.frequencies(128);
    assert_eq!((found[0], scaling), (1.0, 1.0));
    close(&found, plain(500_000.0, 128));
    let linear = RopeConfig { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 4.0 } };
    close(&linear.frequencies(64).0, plain(10_000.0, 64).map(|frequency| frequency / 4.0));
}

#[test]
fn llama3_keeps_high_frequencies_divides_low_ones_and_blends_between() {
    let (factor, low, high, original) = (8.0, 1.0, 4.0, 8192);
    let scaling = RopeScaling::Llama3 {
        factor,
        low_frequency_factor: low,
        high_frequency_factor: high,
        original_positions: original,
    };
    let (found, attention) = RopeConfig { theta: 500_000.0, scaling }.frequencies(128);
    assert_eq!(attention, 1.0);
    let mut regions = [0; 3];
    let expected = plain(500_000.0, 128).map(|frequency| {
        let turns = original as f64 * frequency / (2.0 * PI);
        if turns > high {
            regions[0] += 1;
            frequency
        } else if turns < low {
            regions[1] += 1;
            frequency / factor
        } else {
            regions[2] += 1;
            let smooth = (turns - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    });
    close(&found, expected);
    assert!(regions.iter().all(|&pairs| pairs > 0), "{regions:?}");
}

#[test]
fn yarn_blends_by_turns_and_sharpens_attention() {
    let (factor, original, theta, width) = (4.0, 32_768, 1_000_000.0, 128);
    let scaling = RopeScaling::Yarn {
        factor,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original_positions: original,
        attention_factor: 0.1 * f64::ln(factor) + 1.0,
        truncate: true,
    };
    let (found, attention) = RopeConfig { theta, scaling }.frequencies(width);
    assert!((f64::from(attention) - 1.138_629_436).abs() < 1e-6);
    // The dimension that turns `n` times within the original positions, solved for the pair.
    let pair_of =
        |turns: f64| width as f64 * (original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (first, last) = (pair_of(32.0).floor(), pair_of(1.0).ceil());
    assert!(first > 0.0 && last < 64.0);
    let expected = plain(theta, width).enumerate().map(|(pair, frequency)| {
        let ramp = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
        frequency / factor * ramp + frequency * (1.0 - ramp)
    });
    close(&found, expected);
}
