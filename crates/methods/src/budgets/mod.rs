//! How many entries each layer and head may keep, and which: from scores, places and tables to counts.
//!
//! Counts never exceed what there is. Scores are compared by [`by_worth`]: NaN is the least of all, so a scorer that breaks
//! down on an entry loses it; of equal scores the LATER entry stays, because what is recent is read more.

mod ada;
mod head_table;
mod pyramid;
mod squeeze;
mod uniform;

pub use ada::{ada_interpolated, ada_safeguarded};
pub use head_table::{head_capacities, streaming_heads};
pub use pyramid::{pyramid_share, pyramid_tokens};
#[cfg(test)]
pub use squeeze::least_similar_classes;
pub use squeeze::squeeze;
pub use uniform::{by_worth, kept};

#[cfg(test)]
mod tests;
