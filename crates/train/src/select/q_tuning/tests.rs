use std::path::PathBuf;

use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;

use super::*;

/// Numbers of the oracle, in f64 as ours.
const TOLERANCE: f64 = 1e-12;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(name)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn places(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|place| place.as_u64().unwrap() as usize).collect()
}

fn assert_near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= TOLERANCE * want.abs(), "{got} {want}");
    }
}

/// Losses and entropies of each example's tokens.
fn examples(file: &SafeTensors<'_>, case: &str) -> Vec<(Vec<f64>, Vec<f64>)> {
    let doubles = |name: &str| -> Vec<f64> {
        let tensor = file.tensor(&format!("{case}.{name}")).unwrap();
        tensor.data().as_chunks().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect()
    };
    let lengths = file.tensor(&format!("{case}.len")).unwrap();
    let lengths = lengths.data().as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes) as usize);
    let width = file.tensor(&format!("{case}.nll")).unwrap().shape()[1];
    let (nll, entropy) = (doubles("nll"), doubles("entropy"));
    let row = |all: &[f64], row: usize, length: usize| all[row * width..row * width + length].to_vec();
    lengths.enumerate().map(|(at, length)| (row(&nll, at, length), row(&entropy, at, length))).collect()
}

#[test]
fn thresholds_sets_and_tokens_are_the_oracles() {
    let bytes = std::fs::read(golden("qtuning/vectors.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let index: Value = serde_json::from_slice(&std::fs::read(golden("qtuning/index.json")).unwrap()).unwrap();
    let mut pruned = 0;
    for (name, case) in index["cases"].as_object().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let rule = QTuning { sample: number("r_sample"), token: number("r_token"), lambda: number("lam") };
        let examples = examples(&file, name);
        let borrowed: Vec<(&[f64], &[f64])> = examples.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        let Chosen { fates, partition } = rule.choose(&borrowed);
        assert_near(&partition.thresholds, &numbers(&case["thresholds"]));
        assert_eq!(partition.wrong, places(&case["q2"]), "{name}");
        assert_eq!(partition.unsure, places(&case["q4"]), "{name}");
        assert_eq!(partition.supplement, places(&case["supplement"]), "{name}");
        let kept = places(&case["kept"]);
        for (at, fate) in fates.iter().enumerate() {
            assert_eq!(kept.contains(&at), !matches!(fate, Fate::Dropped(_)), "{name} {at}");
            let Fate::Tokens(marks) = fate else { continue };
            let oracle = &case["token_masks_q2"][at.to_string()];
            assert_near(&rule.token_scores(&examples[at].0), &numbers(&oracle["score"]));
            let marks: Vec<usize> = marks.iter().map(|&kept| usize::from(kept)).collect();
            assert_eq!(marks, places(&oracle["keep_lowest"]), "{name} {at}");
            pruned += 1;
        }
    }
    assert_eq!(pruned, 17, "examples whose tokens were compared");
}

proptest! {
    #[test]
    fn the_share_is_met_from_below_and_every_kept_example_learns_something(
        lengths in prop::collection::vec(1_usize..6, 0..20), seed in any::<u64>(),
        sample in 0.01_f64..1.0, token in 0.01_f64..1.0,
    ) {
        let mut state = seed;
        let mut number = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f64 / f64::from(1 << 22)
        };
        let mut row = |length: usize| (0..length).map(|_| number()).collect::<Vec<f64>>();
        let examples: Vec<_> = lengths.iter().map(|&length| (row(length), row(length))).collect();
        let borrowed: Vec<(&[f64], &[f64])> = examples.iter().map(|(a, b)| (&a[..], &b[..])).collect();
        let chosen = QTuning { sample, token, lambda: 0.5 }.choose(&borrowed);
        let kept = chosen.fates.iter().filter(|fate| !matches!(fate, Fate::Dropped(_))).count();
        let wanted = ((sample * lengths.len() as f64).floor() as usize).max(usize::from(!lengths.is_empty()));
        prop_assert!(kept >= wanted && kept <= lengths.len());
        for (fate, &length) in chosen.fates.iter().zip(&lengths) {
            if let Fate::Tokens(marks) = fate {
                let left = marks.iter().filter(|&&kept| kept).count();
                prop_assert_eq!((marks.len(), left), (length, ((token * length as f64) as usize).max(1)));
            }
        }
    }
}

#[test]
fn noise_is_dropped_and_what_is_known_too() {
    // Perplexity and entropy: noise, sure and wrong, unsure and right, known; and many between.
    let mut plane = vec![(5.0, 5.0), (5.0, 0.1), (0.1, 5.0), (0.1, 0.1)];
    plane.extend((0..12).map(|at| (2.0 + 0.01 * f64::from(at), 2.0 + 0.01 * f64::from(at))));
    let examples: Vec<(Vec<f64>, Vec<f64>)> = plane.iter().map(|&(p, e)| (vec![p; 4], vec![e; 4])).collect();
    let borrowed: Vec<(&[f64], &[f64])> = examples.iter().map(|(a, b)| (&a[..], &b[..])).collect();
    let chosen = QTuning { sample: 0.125, token: 0.5, lambda: 0.5 }.choose(&borrowed);
    assert_eq!(chosen.fates[0], Fate::Dropped(Reason::Noise));
    assert!(
        matches!(&chosen.fates[1], Fate::Tokens(marks) if marks.iter().filter(|&&kept| kept).count() == 2)
    );
    assert_eq!(chosen.fates[2], Fate::Whole(Reason::Unsure));
    assert_eq!(chosen.fates[3], Fate::Dropped(Reason::Known));
    assert!(chosen.fates[4..].iter().all(|fate| matches!(fate, Fate::Dropped(Reason::Between))));
}
