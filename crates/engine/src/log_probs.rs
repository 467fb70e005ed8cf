//! How likely tokens were, as the model saw it.

/// Which log-probabilities a request asks for; by default none, and then they cost nothing.
///
/// They are those of the model: its softmax before any penalty, temperature or filter, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogProbs {
    /// Of each generated token, with so many of the likeliest tokens in its place.
    pub generated: Option<usize>,
    /// Of tokens of the prompt.
    pub prompt: Option<PromptLogProbs>,
}

/// Which tokens of a prompt are told of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PromptLogProbs {
    /// Position of the first. The token at position 0 follows nothing and is never told of.
    pub from: usize,
    /// How many of the likeliest tokens come with each.
    pub top: usize,
}

/// How likely one token was in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogProb {
    /// The token.
    pub token: u32,
    /// Its log-probability in nats.
    pub log_prob: f32,
    /// The likeliest tokens in its place with their log-probabilities, likeliest first, of equal ones the lower id; the
    /// token itself is among them only if it is that likely.
    pub top: Vec<(u32, f32)>,
}
