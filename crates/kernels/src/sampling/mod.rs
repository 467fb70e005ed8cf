//! From logits to tokens on a device: the rules are those of the engine's sampler, its twin on the CPU.
//!
//! A token's weight is `exp((logit - largest) / temperature)`, taken as an integer with 40 binary places; sums of
//! integers do not depend on the order in which they are added, so equal inputs give equal tokens.

mod cuda;
#[cfg(test)]
mod cuda_tests;

pub(crate) use cuda::SOURCE as SAMPLE_SOURCE;
pub use cuda::{DeviceSampler, NOT_FINITE, SlotSampling};
