//! What the heads of a model do: how much each of them looks far back, and what is lost without it.

mod duo;
mod looks;
mod masking;
mod needles;
mod retrieval;
#[cfg(test)]
mod tests;

pub use duo::duo_scores;
pub use masking::{Mask, Masked, Masking, mask_heads, ranking};
pub use retrieval::{Retrieved, retrieval_heads};
