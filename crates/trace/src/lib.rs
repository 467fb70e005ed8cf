//! L2: what was forgotten, when and by whom, as a versioned JSONL file.
//!
//! A trace holds, for every sequence that ran, its tokens and the death of every cache entry: the position of
//! the entry, the first query position that no longer saw it, and the query that killed it. That is all that an
//! inspector needs, because a decision is a lifetime. The format is described in `docs/trace.md`.
//!
//! [`TraceWriter`] and [`TraceReader`] share one set of rules, so that what the writer accepts the reader
//! accepts too; [`Timeline`] is a whole trace in memory, ready to be asked about (layer, head, position).

mod error;
mod event;
pub mod fuzzing;
mod header;
mod order;
mod reader;
mod timeline;
mod writer;

pub use error::TraceError;
pub use event::{Deaths, End, Event, Sequence, Tokens};
pub use header::{Granularity, TraceHeader, VERSION};
pub use reader::TraceReader;
pub use timeline::{Fate, SequenceTimeline, Timeline};
pub use writer::TraceWriter;

/// Bytes that one line may have, its line feed included; longer lines are refused, not read.
pub const MAX_LINE_BYTES: usize = 64 << 20;
