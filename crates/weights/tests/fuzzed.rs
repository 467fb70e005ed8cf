//! The fuzz bodies on seeded inputs: random bytes, and small changes of valid files.

use dropcap_weights::fuzzing;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const VALID: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"b":{"dtype":"BF16","shape":[0,3],"data_offsets":[16,16]},"c":{"dtype":"I64","shape":[],"data_offsets":[16,24]}}"#;
const INDEX: &str =
    r#"{"metadata":{"total_size":24},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
/// Pieces that numbers, names and brackets of a header are replaced by.
const PIECES: [&str; 12] =
    ["0", "1", "18446744073709551615", "-1", "4294967296", "[", "]", "{", "}", "\"a\"", ",", "null"];

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

/// Valid text with a few stretches replaced, removed or inserted.
fn changed(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let change = (
        0..text.len(),
        0..8usize,
        prop_oneof![
            proptest::sample::select(&PIECES[..]).prop_map(|piece| piece.as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ],
    );
    proptest::collection::vec(change, 1..5).prop_map(move |changes| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, removed, piece) in changes {
            let at = at.min(bytes.len());
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        bytes
    })
}

#[test]
fn random_bytes_never_panic_the_readers() {
    runner(2000)
        .run(&proptest::collection::vec(any::<u8>(), 0..200), |bytes| {
            fuzzing::file(&bytes);
            fuzzing::file(&[&(bytes.len() as u64).to_le_bytes()[..], &bytes].concat());
            fuzzing::index(&bytes);
            Ok(())
        })
        .unwrap();
}

#[test]
fn changed_headers_are_refused_or_cover_their_body() {
    fuzzing::file(&[&(VALID.len() as u64).to_le_bytes()[..], VALID.as_bytes(), &[0; 24]].concat());
    runner(5000)
        .run(&(changed(VALID), 0..40usize), |(header, body)| {
            fuzzing::file(&[&(header.len() as u64).to_le_bytes()[..], &header, &vec![0; body]].concat());
            Ok(())
        })
        .unwrap();
}

#[test]
fn changed_indexes_never_panic() {
    runner(3000)
        .run(&changed(INDEX), |bytes| {
            fuzzing::index(&bytes);
            Ok(())
        })
        .unwrap();
}
