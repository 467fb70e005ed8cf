//! L0: seeded hostile inputs, for the tests that drive the bodies of fuzz targets.
//!
//! A fuzzer finds its inputs in hours; a test suite has seconds. It gets there with what a fuzzer would have found first:
//! random bytes, and small changes of a valid input. Every run sees the same inputs, and one that fails is made small.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// Calls `body` with `cases` inputs of up to 200 random bytes.
///
/// Panics if the body does, with the smallest input that makes it.
pub fn random_bytes(cases: u32, body: impl Fn(&[u8])) {
    run(cases, &proptest::collection::vec(any::<u8>(), 0..200), |bytes| body(&bytes));
}

/// Calls `body` with `cases` copies of one of `valid`, each with one to four stretches of up to 12 bytes replaced by one
/// of `pieces` or by random bytes.
///
/// Panics as [`random_bytes`].
pub fn changed(cases: u32, valid: &[&str], pieces: &[&'static str], body: impl Fn(&[u8])) {
    let valid: Vec<Vec<u8>> = valid.iter().map(|text| text.as_bytes().to_vec()).collect();
    let piece = prop_oneof![
        4 => prop::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..4),
    ];
    let change = (any::<prop::sample::Index>(), 0..12_usize, piece);
    let inputs = (prop::sample::select(valid), proptest::collection::vec(change, 1..5));
    run(cases, &inputs, |(mut bytes, changes)| {
        for (at, removed, piece) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, piece);
        }
        body(&bytes);
    });
}

/// Calls `body` with `cases` inputs of a strategy of one's own.
///
/// Panics as [`random_bytes`].
pub fn run<S: Strategy>(cases: u32, inputs: &S, body: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]));
    let outcome = runner.run(inputs, |input| {
        body(input);
        Ok(())
    });
    let failed = outcome.map_err(|error| match error {
        TestError::Fail(reason, input) => format!("{reason}: {input:?}"),
        TestError::Abort(reason) => reason.to_string(),
    });
    assert_eq!(failed, Ok(()));
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_run_sees_the_same_inputs_and_most_differ() {
        let seen = || {
            let inputs = RefCell::new(Vec::new());
            let valid =
                r#"{"a":1,"b":[2,30,400],"c":{"d":null,"e":"a text that is longer than the others"}}"#;
            changed(200, &[valid], &["0", "]"], |bytes| inputs.borrow_mut().push(bytes.to_vec()));
            inputs.into_inner()
        };
        let inputs = seen();
        assert_eq!(inputs, seen());
        assert!(inputs.iter().collect::<HashSet<_>>().len() > 100);
    }

    #[test]
    #[should_panic(expected = "the body's own words")]
    fn a_body_that_panics_fails_the_test() {
        random_bytes(100, |bytes| assert!(bytes.len() < 20, "the body's own words"));
    }
}
