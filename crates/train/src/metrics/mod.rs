//! What a run tells: lines of JSON, TensorBoard events, a model card, and whoever listens.

mod card;
mod confounders;
mod crc32c;
mod events;
mod examples;
mod log;
mod report;
mod scores;

pub use card::{ModelCard, Row};
pub use confounders::{Confounders, Prompt};
pub use events::EventFile;
pub use log::MetricsLog;
pub use report::{Evaluated, Quiet, Report, Saved, Stepped};
pub use scores::Scores;
