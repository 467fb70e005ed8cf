//! Shorter text in front of a model: what is worth little to it is left out before it is read.
//!
//! Every method is a function from a text to what of it stays ([`Compressed`]): stretches of the text in its order, each
//! with its score, and never more tokens than the budget. It asks a [`Judge`] how likely tokens are, and nothing else of a
//! model. No character and no fenced block is ever cut, and nothing is added, so what is kept is a subsequence of the text.

mod code;
mod context;
mod error;
mod fences;
mod fit;
mod judge;
mod language;
pub mod longcodezip;
mod model;
mod perplexity;
mod promptquine;
mod tapruning;
mod vectors;

pub use code::chunks;
pub use context::{Closeness, Embed, close, context};
pub use error::CompressError;
pub use fences::Fences;
pub use fit::{Compressed, Span};
pub use judge::{Judge, Reading, Token, Tokens};
pub use language::Language;
pub use longcodezip::longcodezip;
pub use model::{ModelJudge, beginning};
pub use perplexity::perplexity;
pub use promptquine::{Evolution, ScoreAll, promptquine};
pub use tapruning::{Answers, Cut, Example, Search, answers, tapruning};
pub use vectors::{GivenVectors, HiddenStates, Listener};
