//! Sums over rows, and over everything, on the device: the gradients of biases and of norms, and the gradient's norm.
//!
//! Sums are cut by shapes alone and partial sums are added in a fixed order.

mod cuda;
#[cfg(test)]
mod cuda_tests;

pub(crate) use cuda::SOURCE;
pub use cuda::{DeviceSums, PARTS};
