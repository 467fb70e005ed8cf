//! `/v1/compress`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Usage;

/// A text that is to be made shorter.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CompressRequest {
    /// The model, as `/v1/models` names it; the one that there is where it is left out.
    pub model: Option<String>,
    /// The text.
    pub text: String,
    /// How much stays: a number of tokens such as 2048 or "2K", or a share such as 0.25.
    pub budget: Budget,
    /// What the text is for, such as a question about it. It is no part of the text, takes nothing of the budget and is never
    /// shortened.
    pub instruction: Option<String>,
    /// What decides: `longcodezip`, the default where there is an instruction, `perplexity`, the default where there is none, or
    /// `context`.
    pub method: Option<CompressMethod>,
    /// What the text is written in: c, go, java, javascript, python, rust or text, the default.
    pub language: Option<String>,
    /// For `context`: vectors of the instruction and of every sentence, as an embedding model makes them.
    pub vectors: Option<Vec<TextVector>>,
    /// For `context`: sentences closer to the instruction than so many per cent of their passage may stay; 75 by default.
    #[schema(minimum = 0, maximum = 100)]
    pub percentile: Option<f64>,
    /// For `context`: sentences whose cosine with the instruction is larger may stay; 0.5 by default.
    #[schema(minimum = -1, maximum = 1)]
    pub floor: Option<f64>,
    /// For `context`: so many sentences may stay, each passage an equal share; 150 by default.
    #[schema(minimum = 1)]
    pub volume: Option<u64>,
    /// Requests share the memory of equal beginnings only with those of the same salt.
    pub cache_salt: Option<String>,
}

/// How much of a text stays.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a number of tokens, a share, or either as a string")]
pub enum Budget {
    /// A number of tokens.
    Tokens(u64),
    /// A share, above 0 and up to 1.0.
    Share(f64),
    /// Either, as on the command line.
    Text(String),
}

/// What decides what stays of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CompressMethod {
    /// Functions or paragraphs, and blocks within them, that help most with the instruction.
    Longcodezip,
    /// Tokens that the model does not foresee.
    Perplexity,
    /// Sentences that are close to the instruction.
    Context,
}

/// A text and its vector.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextVector {
    /// The text; white space around it does not matter.
    pub text: String,
    /// Its vector; all of a request have one length.
    pub vector: Vec<f64>,
}

/// A shorter text.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompressedText {
    /// Names the request.
    pub id: String,
    /// `compressed_text`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that judged.
    pub model: String,
    /// What decided.
    pub method: CompressMethod,
    /// What was asked for, as the command writes it.
    pub budget: String,
    /// What stays.
    pub text: String,
    /// What stays, as stretches of the text in its order.
    pub spans: Vec<KeptSpan>,
    /// Tokens of the text.
    pub tokens_before: usize,
    /// Tokens of what stays.
    pub tokens_after: usize,
    /// Their ratio.
    pub share: f64,
    /// Stretches that the method judged; 0 where the text fitted.
    pub judged: usize,
    /// What the model read for it.
    pub usage: Usage,
}

/// A stretch of a text that stays.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct KeptSpan {
    /// Its first byte.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
    /// What the method found it worth; larger is better.
    pub score: f64,
}
