//! Why a trace has no page.

use std::io;

use dropcap_trace::TraceError;

use crate::MAX_ENTRIES;

/// Everything that can keep a trace from becoming a page.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The trace cannot be read, or is none.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A trace in which nothing ran.
    #[error("the trace holds no token: nothing ran while it was recorded")]
    Empty,
    /// More than a page can show.
    #[error(
        "the trace has {tokens} tokens in {lanes} lanes each, {entries} entries, and a page shows at most {}: trace a shorter text, or fewer at once",
        MAX_ENTRIES
    )]
    TooLarge {
        /// Tokens of all sequences.
        tokens: u64,
        /// Layers times the lanes of each.
        lanes: u64,
        /// Their product.
        entries: u64,
    },
    /// The page could not be written.
    #[error("cannot write the page: {0}")]
    Write(#[from] io::Error),
}
