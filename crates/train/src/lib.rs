//! L5: teach a model what to forget.
//!
//! Text becomes token shards and batches ([`data`]), a configuration says what is trained and how ([`config`]), and a
//! run keeps its states, metrics and lock in one directory ([`checkpoint`], [`metrics`]).

pub mod backend;
pub mod checkpoint;
pub mod collective;
pub mod config;
pub mod data;
pub mod device;
mod digest;
pub mod disk;
mod error;
pub mod fuzzing;
pub mod head_gates;
pub mod metrics;
pub mod network;
pub mod recipe;
pub mod schedule;
pub mod select;
pub mod signals;
#[cfg(test)]
mod tiny;
pub mod tokenizer;
pub mod trainer;

pub use digest::Digest;
pub use error::TrainError;
