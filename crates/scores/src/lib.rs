//! What is measured, defined once: whoever prints a perplexity, a keep ratio or an accuracy takes it from here, so that
//! the numbers of a training run and of an evaluation mean the same.

mod choice;
mod keep;
mod perplexity;
mod proportion;
mod sample;

pub use choice::{Choice, likeliest, likeliest_per_character};
pub use keep::keep_ratio;
pub use perplexity::{bits, mean_nats, perplexity};
pub use proportion::Proportion;
pub use sample::{Sample, quantile};
