//! Checkpoints, their configurations and tokenizers, as one binary.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a test that cannot go on should fail"
)]

mod adapters;
mod checkpoints;
mod configs;
mod fuzzed;
mod generation;
mod gguf;
mod rope;
mod tokenizing;
