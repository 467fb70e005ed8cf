//! Rows of the embedding as the start of the residual stream; on a CPU the decoder copies them itself.

mod cuda;
#[cfg(test)]
mod cuda_tests;
mod train_cuda;
#[cfg(test)]
mod train_cuda_tests;

pub(crate) use train_cuda::TRAIN_SOURCE;
pub use train_cuda::{EmbeddingSlices, SumsOfTokens, TokenRows, TrainEmbedding};

pub use cuda::DeviceEmbedding;
pub(crate) use cuda::SOURCE;
