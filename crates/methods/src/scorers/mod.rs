//! What every entry of a KV head is worth when something must go: the arithmetic of the field's scorers, and nothing else.
//!
//! Plain slices in, scores out; a larger score stays, and NaN counts as the smallest ([`crate::budgets`]). Nothing here knows
//! of caches, floors or steps, so that each function can be held against the code that it follows (`tests/golden`).
//!
//! Shapes, all f32 and row-major: `keys` and `values` `[n, d]` are the n entries of one KV head in the order of their
//! positions; `queries` `[group, w, d]` those of the query heads that share it; `mass` `[group, n]` the softmax probability
//! that each entry met in each of those heads, summed over queries. Keys and queries are rotated by their positions unless a
//! name says `raw`. Entries that an original protects by a large number have [`f32::INFINITY`]. A slice that is too short
//! for its shape gives as many scores as it has whole entries.

mod attention;
mod citrus;
mod compactor;
mod expected_attention;
mod keydiff;
mod keyformer;
mod knorm;
mod lagkv;
mod leverage;
mod nacl;
mod noise;
mod observed_attention;
mod pooling;
mod random;
mod reduction;
mod rotation;
mod snapkv;

pub use citrus::citrus;
pub use compactor::{Compactor, non_causal_attention};
pub use expected_attention::ExpectedAttention;
pub use keydiff::keydiff;
pub use keyformer::keyformer_accumulate;
pub use knorm::knorm;
pub use lagkv::LagKv;
pub use leverage::{gaussian_sketch, leverage};
pub use nacl::{nacl, nacl_draw};
pub use noise::{Noise, Place};
pub use observed_attention::observed_attention;
pub use pooling::Pooling;
pub use random::random;
pub use reduction::Reduction;
pub use rotation::mean_rotation;
pub use snapkv::SnapKv;

#[cfg(test)]
pub(crate) mod tests;
