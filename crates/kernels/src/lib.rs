//! L0 of Dropcap: the operations of the hot path, on slices and packed weights, over a persistent [`Team`].
//!
//! Each operation is one folder: its contract and checks, a naive `reference` (f64 sums) and the fast code. This
//! is the only crate with unsafe code.

pub mod activation;
pub mod attention;
pub mod buffer;
mod chunks;
pub mod dtype;
pub mod error;
pub mod lane;
pub mod matmul;
pub mod norm;
pub mod page;
mod panel;
pub mod rope;
pub mod simd;
pub mod team;
#[cfg(test)]
mod testing;
pub mod vote;

pub use activation::silu_mul;
pub use attention::{AttentionRows, AttentionShape, attention};
pub use buffer::{Buffer, Elements, ElementsMut};
pub use dtype::DType;
pub use error::KernelError;
pub use lane::LaneView;
pub use matmul::{Epilogue, Orientation, PackedMatrix, Part, TensorBytes, matmul};
pub use norm::{layer_norm, rms_norm, rms_norm_heads};
pub use page::{PAGE_ENTRIES, PageLayout};
pub use rope::{RopeAngles, RopeTable, rope, rotate};
pub use simd::Isa;
pub use team::Team;
pub use vote::{VoteJob, first_refusals};
