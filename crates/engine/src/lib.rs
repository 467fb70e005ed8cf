//! From prompts to tokens: sequences, scheduling, ragged batches, sampling.
//!
//! [`Engine::submit`] queues a request; each [`Engine::step`] runs one ragged batch of prompt chunks and
//! single tokens through the decoder and reports what came out. Sequences join and leave between steps.

mod backend;
mod demand;
mod drive;
mod engine;
mod error;
mod evaluate;
mod log_probs;
mod machine;
mod memory;
mod options;
mod prefix;
mod reading;
mod request;
mod sampler;
mod schedule;
mod scores;
mod sequence;
mod shortage;
mod speller;
mod stop;
mod text;
mod tracing;

pub use drive::{Answered, drive};
pub use engine::Engine;
pub use error::EngineError;
pub use evaluate::{
    Evaluation, LogitSink, Text, evaluate, evaluate_on_device, evaluate_rows, evaluate_rows_on_device,
};
pub use log_probs::{LogProbs, PromptLogProbs, TokenLogProb};
pub use options::EngineOptions;
pub use reading::Reading;
pub use request::{FinishReason, Finished, Output, Request, SequenceId, Timings};
pub use sampler::{Draw, Sampler, Sampling, sample_all};
pub use scores::VoteScores;
pub use shortage::Shortage;
pub use stop::StopMatcher;
pub use text::TextStream;
