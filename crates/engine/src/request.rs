//! What goes into the engine and what comes out of it.

use std::time::Duration;

use dropcap_cache::KvReport;

use crate::{EngineError, LogProbs, Sampling, Shortage, TokenLogProb};

/// Names a sequence for as long as the engine lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// A prompt and how to continue it.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Most tokens to generate; the model's positions bound it too. At least 1, or 0 where log-probabilities of the prompt
    /// are all that is wanted.
    pub max_tokens: usize,
    /// How to choose each token.
    pub sampling: Sampling,
    /// Ids that end the text; such an id is reported but belongs to no text. Stop strings are the caller's
    /// (see [`crate::StopMatcher`] and [`crate::Engine::finish`]): the engine knows no text.
    pub stop_tokens: Vec<u32>,
    /// Which log-probabilities come with the tokens.
    pub log_probs: LogProbs,
    /// Texts share the memory of an equal beginning only with those of the same salt.
    pub salt: String,
    /// Most entries of each lane that stay where the method acts, within what the method keeps by itself; for methods with
    /// a budget ([`dropcap_policy::EvictionPolicy::budgets`]). None is the method's own.
    pub kv_budget: Option<u32>,
    /// How many of the prompt's tokens are the context: methods that prune where a prompt ends do so behind them, and read
    /// what follows, such as a question, as they read generated tokens. None is the whole prompt.
    pub context: Option<usize>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text token or a stop string.
    Stop,
    /// `max_tokens`, or the model's last position.
    Length,
    /// Cancelled by the caller.
    Cancelled,
    /// The cache has no room for the next token, although nobody else holds any; the text so far is whole.
    OutOfMemory(Shortage),
}

impl FinishReason {
    /// The word that APIs of the field use, and ours where they have none: `stop`, `length`, `cancelled`,
    /// `out_of_memory`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
            FinishReason::OutOfMemory(_) => "out_of_memory",
        }
    }
}

/// How long the two phases of one sequence took, waiting in the queue apart.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timings {
    /// From its first prompt chunk to its first token.
    pub prefill: Duration,
    /// From its first token to its last.
    pub decode: Duration,
}

/// A sequence that is over.
#[derive(Debug)]
pub struct Finished {
    /// Which.
    pub id: SequenceId,
    /// Why.
    pub reason: FinishReason,
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Prompt tokens that did not go through the model, because an earlier text began with them.
    pub cached_tokens: usize,
    /// Generated ids, the end-of-text id included.
    pub token_ids: Vec<u32>,
    /// Its cache at the end, before it was freed.
    pub report: KvReport,
    /// Entries of each lane that were to stay where the method acted, at most: the request's own budget or the method's for
    /// a text of this length; none where the method has no budget.
    pub kv_budget: Option<u32>,
    /// How long it took.
    pub timings: Timings,
}

/// One thing that a step brought.
#[derive(Debug)]
pub enum Output {
    /// A new token.
    Token {
        /// Whose.
        id: SequenceId,
        /// The token.
        token: u32,
        /// How likely it was, if the request asks for that.
        log_prob: Option<TokenLogProb>,
    },
    /// How likely some tokens of a prompt were. They come in order, a chunk at a time, before the first new token, and
    /// each once, also where a sequence has to start again.
    Prompt {
        /// Whose.
        id: SequenceId,
        /// Position of the first of them.
        first: usize,
        /// One for each.
        log_probs: Vec<TokenLogProb>,
    },
    /// The last word on a sequence.
    Finished(Finished),
    /// A sequence that had to be given up; the tokens told of before stay true.
    Failed {
        /// Which.
        id: SequenceId,
        /// Why.
        error: EngineError,
    },
}
