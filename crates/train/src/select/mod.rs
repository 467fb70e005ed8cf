//! Which examples a model learns from, and which tokens of them.
//!
//! [`QTuning`] decides batch by batch, by what the model makes of each example now. [`coverage`] decides once, by scores that
//! were written down before. [`Leaf`] adds examples that lack what misleads. All are functions of their numbers alone.

mod account;
mod coverage;
mod leaf;
mod pack;
mod q_tuning;

pub use account::Account;
pub use coverage::{Coverage, coverage, overall};
pub use leaf::{Leaf, difference, stretches};
pub use pack::{Kept, pack};
pub use q_tuning::{Chosen, Fate, Partition, QTuning, Reason, partition};
