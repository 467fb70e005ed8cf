//! Text to tokens to batches.
//!
//! A source is plain text or JSON lines, `.xz` or not ([`Documents`]); its tokens are kept in a shard with a checked
//! header ([`TokenShard`]), made once and found again ([`prepare`]); a batch is a function of seed and step
//! ([`Batches`]).

mod batches;
mod borders;
mod documents;
mod kind;
mod lines;
mod prepare;
mod shard;
mod tokens;

pub use batches::{Batch, Batches};
pub use borders::{Borders, END_OF_TEXT, named_end};
pub use documents::{Document, Documents, SEPARATOR};
pub use lines::{Lines, MAX_LINE_BYTES};
pub use prepare::{Prepared, Preparing, prepare};
pub use shard::{ShardFacts, TokenShard};
pub(crate) use tokens::pieces;
pub use tokens::{tokenize, tokenize_document};
