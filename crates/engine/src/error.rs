//! What can go wrong between a request and its tokens.

use std::sync::Arc;

use dropcap_cache::CacheError;
use dropcap_kernels::KernelError;
use dropcap_model::ModelError;
use dropcap_trace::TraceError;

use crate::Shortage;
use crate::shortage::Bytes;

/// An error of the engine; each names the limit, the given value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A prompt without tokens.
    #[error("the prompt is empty: it must hold at least one token")]
    EmptyPrompt,
    /// A prompt longer than the model.
    #[error("the prompt has {given} tokens but the model has {limit} positions: shorten the prompt")]
    PromptTooLong {
        /// Prompt tokens.
        given: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// A method that must see more tokens together than one step may hold.
    #[error(
        "the method looks back from the prompt's end at its last {needed} tokens together, but a step holds at most {chunk}: raise the chunk to {needed}, or shorten the prompt or the method's window"
    )]
    Together {
        /// Tokens that it must see in one step.
        needed: usize,
        /// Most that a step may hold.
        chunk: usize,
    },
    /// A token id that the model does not have.
    #[error("token id {id} is outside the model's vocabulary of {vocabulary}")]
    TokenOutsideVocabulary {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A request for nothing.
    #[error("max_tokens is 0: it must be at least 1 where no log-probabilities of the prompt are asked for")]
    NoTokensWanted,
    /// As many requests as may wait are waiting.
    #[error("{limit} requests are waiting, which is the most that may: try again when some have ended")]
    QueueFull {
        /// Most that may wait.
        limit: usize,
    },
    /// A sampling parameter outside its range.
    #[error("{name} is {given}: it must be {range}")]
    Sampling {
        /// Parameter.
        name: &'static str,
        /// Given value.
        given: f64,
        /// Allowed range in words.
        range: &'static str,
    },
    /// A budget of a request's own under a method that has none.
    #[error(
        "kv_budget is given, but the pruning method has no budget of entries: leave it out, or choose a method that has one"
    )]
    NoBudget,
    /// A budget of a request's own that the method cannot keep, or that is above its own.
    #[error("kv_budget is {given}: under this pruning method it must be between {least} and {most} entries")]
    Budget {
        /// Given value.
        given: u32,
        /// What stays in any case.
        least: u32,
        /// What the method keeps of the longest text.
        most: u32,
    },
    /// A budget of a request's own for a window, which on a device is one for all texts.
    #[error(
        "kv_budget is not available on a GPU for methods that forget as tokens leave a window: leave it out, or run on the processor"
    )]
    BudgetOnDevice,
    /// The cache cannot hold even this one sequence, if it is alone.
    #[error("{0}")]
    OutOfMemory(Shortage),
    /// A cap on the cache that leaves no room for a single token.
    #[error(
        "the cap on the KV cache is {}, but one token takes a page in every lane, {} together: raise the cap",
        Bytes(*limit),
        Bytes(*least)
    )]
    CapTooSmall {
        /// The cap in bytes, or what was free where none was given.
        limit: usize,
        /// Bytes that one token takes.
        least: usize,
    },
    /// A step has failed, so what the engine holds cannot be trusted any more.
    #[error(
        "a step of the engine failed, nothing that was queued or running can go on: {cause}; make a new engine"
    )]
    Poisoned {
        /// What failed.
        cause: Arc<str>,
    },
    /// Memory of one engine was given to the step of another; nothing in this crate does so.
    #[error("a sequence's cache does not belong to the backend that runs it: make a new engine")]
    ForeignMemory,
    /// The model produced NaN or infinite logits.
    #[error(
        "the model gave {value} as the logit of token {token} at position {position}: a number on the way passed the range of its format, or weights or gates are damaged; wider dtypes (f32) for weights and cache tell which"
    )]
    NonFiniteLogits {
        /// The value.
        value: f32,
        /// Its token id.
        token: usize,
        /// The position that was being continued.
        position: usize,
    },
    /// An engine option outside its range.
    #[error("{name} is {given}: it must be at least {minimum}")]
    Option {
        /// Option.
        name: &'static str,
        /// Given value.
        given: usize,
        /// Smallest allowed value.
        minimum: usize,
    },
    /// Whoever takes the rows of an evaluation failed.
    #[error("the logits cannot be handed on: {0}")]
    Rows(#[source] std::io::Error),
    /// From the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// From the cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// From an operation.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// From the trace file.
    #[error(transparent)]
    Trace(#[from] TraceError),
}
