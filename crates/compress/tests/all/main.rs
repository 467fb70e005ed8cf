//! The compressors against golden values of the original codes, and their promises, as one binary.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot go on should fail"
)]

mod golden_context;
mod golden_longcodezip;
mod golden_tapruning;
mod promises;
mod support;
