//! Checkpoints, their configurations and tokenizers, as one binary.
#![cfg(test)]

mod adapters;
mod checkpoints;
mod configs;
mod fuzzed;
mod generation;
mod gguf;
mod rope;
mod tokenizing;
