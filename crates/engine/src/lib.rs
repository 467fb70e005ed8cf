//! From prompts to tokens: sequences, scheduling, ragged batches, sampling.
//!
//! [`Engine::submit`] queues a request; each [`Engine::step`] runs one ragged batch of prompt chunks and
//! single tokens through the decoder and reports what came out. Sequences join and leave between steps.

mod backend;
mod engine;
mod error;
mod evaluate;
mod memory;
mod request;
mod sampler;
mod schedule;
mod sequence;
mod stop;
mod text;
mod tracing;

pub use engine::{Engine, EngineOptions};
pub use error::EngineError;
pub use evaluate::{
    Evaluation, LogitSink, evaluate, evaluate_on_device, evaluate_rows, evaluate_rows_on_device,
};
pub use request::{FinishReason, Finished, Output, Request, SequenceId, Timings};
pub use sampler::{Draw, Sampler, Sampling, sample_all};
pub use stop::StopMatcher;
pub use text::TextStream;
