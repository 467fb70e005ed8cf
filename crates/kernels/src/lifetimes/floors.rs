//! What a policy may not take away.

use super::NEVER;
use crate::cuda::kernel_struct;

kernel_struct! {
    /// The least lifetime of every entry, whatever a policy asks for.
    #[derive(Default, PartialEq, Eq, Hash)]
    pub struct Floors as Floors {
        /// The first `sinks` positions of a sequence never expire.
        pub sinks: u32,
        /// Every entry is seen by at least the queries `position .. position + recent`: the last `recent` tokens,
        /// the query itself included, are always there. 0 and 1 say the same: a token never drops itself.
        pub recent: u32,
    }
}

impl Floors {
    /// Both floors at once: the higher of each.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { sinks: self.sinks.max(other.sinks), recent: self.recent.max(other.recent) }
    }

    /// The lowest `expires_at` that an entry at `position` may be given.
    #[must_use]
    pub fn of(self, position: u32) -> u32 {
        if position < self.sinks { NEVER } else { position.saturating_add(self.recent.max(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_never_expire_and_recent_entries_outlive_their_window() {
        let floors = Floors { sinks: 2, recent: 8 };
        assert_eq!(floors.of(1), NEVER);
        assert_eq!(floors.of(2), 10);
    }

    #[test]
    fn without_floors_an_entry_still_sees_itself() {
        assert_eq!(Floors::default().of(7), 8);
    }

    #[test]
    fn a_window_beyond_the_last_position_means_never() {
        assert_eq!(Floors { sinks: 0, recent: u32::MAX }.of(5), NEVER);
    }
}
