//! The engine on the processor: one binary, because each more would be linked with the whole engine again.
#![cfg(test)]

mod admission;
mod budgets;
mod context;
mod failures;
mod golden_dcp;
mod golden_dense;
mod golden_lora;
mod golden_presses;
mod golden_streaming;
mod log_probs;
mod memory;
mod prefixes;
mod pruned_equals_masked;
mod quantised;
mod ranking;
mod renumbered;
mod scores;
mod sink;
mod squeezed;
mod steps;
#[path = "../support/mod.rs"]
mod support;
mod text;
mod tinystories;
