//! Rows of the embedding as the start of the residual stream; on a CPU the decoder copies them itself.

mod cuda;
#[cfg(test)]
mod cuda_tests;

pub use cuda::DeviceEmbedding;
pub(crate) use cuda::SOURCE;
