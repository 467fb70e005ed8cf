//! How a lifetime is lowered: the one place on the host, and the reference of `lower` in the kernels.

use super::Floors;

/// The lifetime of an entry that nothing has condemned; no query has this position.
pub const NEVER: u32 = u32::MAX;

/// When an entry ends, and who decided so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lifetime {
    /// First query position that no longer sees the entry.
    pub expires_at: u32,
    /// The query that decided so, [`NEVER`] where none did.
    pub killer: u32,
}

impl Lifetime {
    /// Nothing has condemned the entry.
    pub const ENDLESS: Self = Self { expires_at: NEVER, killer: NEVER };

    /// Ends an entry at `position` at the query `wished`, or at its floor if that is later, on behalf of query `killer`,
    /// and says whether it now ends earlier.
    ///
    /// A lifetime never grows. `killer` is brought into `position..=expires_at`; of two that end an entry at the same
    /// query the earlier one is its killer, whichever was told first.
    pub fn lower(&mut self, position: u32, wished: u32, killer: u32, floors: Floors) -> bool {
        let end = wished.max(floors.of(position));
        let killer = killer.clamp(position, end);
        if end == NEVER || end > self.expires_at {
            return false;
        }
        if end == self.expires_at {
            self.killer = self.killer.min(killer);
            return false;
        }
        *self = Self { expires_at: end, killer };
        true
    }
}
