//! The end of an entry.

pub use dropcap_kernels::lifetimes::NEVER;

/// An entry that was freed: whose it was, when it ended, and who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Death {
    /// Position of the entry's token.
    pub position: u32,
    /// First query position that no longer saw it; above `position`.
    pub expires_at: u32,
    /// The query that decided so; `position <= killer <= expires_at`. For an entry whose window ran out it is
    /// `expires_at`.
    pub killer: u32,
}
