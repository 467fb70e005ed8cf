//! Text to tokens to batches.
//!
//! A source is plain text or JSON lines of texts, of prompts with completions or of conversations, `.xz` or not ([`Documents`]); its tokens are kept in a shard with a checked
//! header ([`TokenShard`]), made once and found again ([`prepare`]); a batch is a function of seed and step
//! ([`Batches`]).

mod answers;
mod batches;
mod borders;
mod counterfactual;
mod documents;
mod examples;
mod json_line;
mod kind;
mod language;
mod lines;
mod prepare;
mod shard;
mod tokens;

pub use answers::Answers;
pub use batches::{Batch, Batches, Learned};
pub use borders::{Borders, END_OF_TEXT, named_end};
pub(crate) use counterfactual::with_counterfactuals;
pub use documents::{Document, Documents, Form, SEPARATOR, Said};
pub use json_line::MAX_MESSAGES;
pub use language::Language;
pub use lines::{Lines, MAX_LINE_BYTES};
pub use prepare::{Prepared, Preparing, prepare};
pub use shard::{ShardFacts, TokenShard};
pub(crate) use tokens::pieces;
pub use tokens::{Tokenized, tokenize, tokenize_document};
