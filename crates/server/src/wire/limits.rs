//! How large the parts of a request may be; what is larger is refused with the limit's name.

/// Most texts of one request: prompts times `n`.
pub const MAX_CHOICES: usize = 128;
/// Most likeliest tokens told beside each token.
pub const MAX_LOGPROBS: usize = 20;
/// Most tokens of a text that is to be made shorter.
pub const MAX_COMPRESS_TOKENS: usize = 128 << 10;
/// Most texts that are made shorter at once.
pub const MAX_COMPRESSING: usize = 4;
/// Most stop strings.
pub const MAX_STOPS: usize = 16;
/// Longest stop string, in bytes.
pub const MAX_STOP_BYTES: usize = 1024;
/// Most entries of `logit_bias`.
pub const MAX_BIASES: usize = 1024;
/// Most messages of a conversation.
pub const MAX_MESSAGES: usize = 4096;
/// Longest `tools` and `chat_template_kwargs`, in bytes of JSON.
pub const MAX_TOOLS_BYTES: usize = 256 << 10;
