//! What goes over the wire: requests as the official clients send them, responses as they read them.

mod chat;
mod completion;
mod compress;
mod limits;
mod logprobs;
mod request;
mod tokens;
mod usage;

pub use chat::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatRequest, ChatResponse, Content, Delta,
    Message, Part, ResponseFormat, Role, ToolChoice,
};
pub use completion::{Completion, CompletionChoice, CompletionRequest, PromptInput};
pub use compress::{Budget, CompressMethod, CompressRequest, CompressedText, KeptSpan, TextVector};
pub use limits::{
    MAX_BIASES, MAX_CHOICES, MAX_COMPRESS_TOKENS, MAX_COMPRESSING, MAX_LOGPROBS, MAX_MESSAGES,
    MAX_STOP_BYTES, MAX_STOPS, MAX_TOOLS_BYTES,
};
pub use logprobs::{ChatLogprobs, ChatTokenLogprob, CompletionLogprobs, TopLogprob};
pub use request::{Common, Stop, StreamOptions};
pub use tokens::{DetokenizeRequest, Detokenized, ModelCard, ModelList, TokenizeRequest, Tokenized};
pub use usage::{KvUsage, PromptDetails, Usage};
