//! The fuzz bodies on seeded inputs: random bytes, and small changes of valid configs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a test that fails")]

use std::path::Path;

use dropcap_model::fuzzing;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What values and stretches of a config are replaced by.
const PIECES: [&str; 20] = [
    "0",
    "1",
    "-1",
    "2147483648",
    "18446744073709551615",
    "1e308",
    "1e-45",
    "0.5",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "NaN",
    "\"yarn\"",
    "\"linear\"",
    "\"sliding_attention\"",
    "[",
    "}",
    ",",
];

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]))
}

fn fixtures() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let models = ["gpt2m", "llama", "llama31_rope", "mistral_sw24", "qwen2", "qwen3"];
    let mut texts: Vec<String> = models
        .iter()
        .map(|model| std::fs::read_to_string(root.join(model).join("config.json")).unwrap())
        .collect();
    texts.push(texts[1].replace(
        "\"rope_type\": \"default\"",
        "\"rope_type\": \"yarn\", \"factor\": 4.0, \"beta_fast\": 32, \"beta_slow\": 1, \"mscale\": 1.0, \"mscale_all_dim\": 0.7, \"truncate\": false",
    ));
    texts
}

#[test]
fn random_bytes_never_panic_the_config() {
    runner(2000)
        .run(&proptest::collection::vec(any::<u8>(), 0..200), |bytes| {
            fuzzing::config(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn changed_values_are_refused_or_make_a_sound_config() {
    let texts = fixtures();
    for text in &texts {
        fuzzing::config(text.as_bytes());
    }
    // One or two values, found by the colons before them.
    let changes =
        proptest::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&PIECES[..])), 1..3);
    runner(6000)
        .run(&(prop::sample::select(texts), changes), |(text, changes)| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            for (at, piece) in changes {
                let line = at.get_mut(&mut lines);
                if let Some((key, value)) = line.clone().split_once(": ") {
                    let comma = if value.ends_with(',') { "," } else { "" };
                    *line = format!("{key}: {piece}{comma}");
                }
            }
            fuzzing::config(lines.join("\n").as_bytes());
            Ok(())
        })
        .unwrap();
}

#[test]
fn changed_bytes_never_panic_the_config() {
    let change = (any::<prop::sample::Index>(), 0..12usize, prop::sample::select(&PIECES[..]));
    let changes = proptest::collection::vec(change, 1..4);
    runner(3000)
        .run(&(prop::sample::select(fixtures()), changes), |(text, changes)| {
            let mut bytes = text.into_bytes();
            for (at, removed, piece) in changes {
                let at = at.index(bytes.len() + 1);
                let end = (at + removed).min(bytes.len());
                bytes.splice(at..end, piece.bytes());
            }
            fuzzing::config(&bytes);
            Ok(())
        })
        .unwrap();
}
