//! L1 of Dropcap: the operations of the hot path, on slices and packed weights, over a persistent [`Team`].
//!
//! Each operation is one folder: its contract and checks, a naive `reference` (f64 sums) and the fast code. This
//! is the only crate with unsafe code.

pub mod activation;
pub mod alpha_sigmoid;
pub mod attention;
pub mod buffer;
mod chunks;
pub mod cross_entropy;
pub mod cuda;
pub mod dtype;
pub mod embedding;
pub mod error;
pub mod gated_attention;
pub mod lane;
pub mod lifetimes;
pub mod matmul;
pub mod norm;
pub mod optimizer;
pub mod page;
mod panel;
pub mod ranking;
pub mod reduce;
pub mod rope;
pub mod sampling;
pub mod simd;
pub mod similarity;
pub mod team;
#[cfg(test)]
mod testing;
pub mod training;
pub mod vote;

pub use activation::{GeluKind, gelu, gelu_backward, silu_mul, silu_mul_backward};
pub use alpha_sigmoid::{AlphaSigmoid, Vote};
pub use attention::{AttentionRows, AttentionShape, attention, attention_mass};
pub use buffer::{Buffer, Elements, ElementsMut, Shelf};
pub use cross_entropy::{Judged, RowLoss, cross_entropy, row_losses};
pub use dtype::DType;
pub use error::KernelError;
pub use lane::LaneView;
pub use matmul::{
    BlockFormat, Columns, Epilogue, Orientation, PackedMatrix, Part, QuantisedMatrix, TensorBytes,
    column_sums, matmul, quantised_matmul, transposed_product,
};
pub use norm::{
    layer_norm, layer_norm_backward, rms_norm, rms_norm_backward, rms_norm_heads, rms_norm_heads_backward,
};
pub use optimizer::{AdamW, Verdict, adamw, sum_of_squares};
pub use page::{CodeBits, KvFormat, PAGE_ENTRIES, PageLayout, RowFormat};
pub use rope::{RopeAngles, RopeTable, rope, rotate, rotate_back};
pub use simd::Isa;
pub use team::Team;
pub use vote::{VoteJob, first_refusals};
