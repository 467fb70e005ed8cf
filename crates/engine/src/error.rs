//! What can go wrong between a request and its tokens.

use dropcap_cache::CacheError;
use dropcap_kernels::KernelError;
use dropcap_model::ModelError;
use dropcap_trace::TraceError;

/// An error of the engine; each names the limit, the given value, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A prompt without tokens.
    #[error("the prompt is empty: it must hold at least one token")]
    EmptyPrompt,
    /// A prompt that leaves no position for a generated token.
    #[error(
        "the prompt has {given} tokens but the model has {limit} positions, one of which the first new token needs: shorten the prompt"
    )]
    PromptTooLong {
        /// Prompt tokens.
        given: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// A token id that the model does not have.
    #[error("token id {id} is outside the model's vocabulary of {vocabulary}")]
    TokenOutsideVocabulary {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocabulary: usize,
    },
    /// A request for no tokens.
    #[error("max_tokens is 0: it must be at least 1")]
    NoTokensWanted,
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
    /// The memory cap cannot hold even this one sequence.
    #[error(
        "out of memory for the KV cache: the sequence holds {held} bytes and needs {wanted} more, the cap is {limit}: raise the cap, shorten the prompt, or prune more"
    )]
    OutOfMemory {
        /// Bytes that the sequence holds.
        held: usize,
        /// Further bytes that its next step needs.
        wanted: usize,
        /// The cap in bytes.
        limit: usize,
    },
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
