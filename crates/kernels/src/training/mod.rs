//! What a pass of training draws and what is counted of it, on the device.
//!
//! The processor does these few things where it needs them; here they have kernels so that a step never waits for them.

mod cuda;
#[cfg(test)]
mod cuda_tests;

pub(crate) use cuda::SOURCE;
pub use cuda::{KeepTable, KeptSums, TrainCounts};
