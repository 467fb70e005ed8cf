//! How much memory the cache takes, and how much it spares.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Entries and bytes of one sequence, or of several added up. An entry is one token in one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvReport {
    /// Entries that a cache without pruning would hold: tokens times lanes.
    pub logical_entries: u64,
    /// Entries that are held.
    pub live_entries: u64,
    /// Bytes of the live entries: keys, values, side channels, 12 bytes of metadata each, and the
    /// statistics.
    pub live_bytes: u64,
    /// Bytes of the pages that hold them, partly filled ones in full, and of the metadata. A page that forks
    /// share counts once for each; the pool counts it once.
    pub held_bytes: u64,
    /// Bytes of the keys and values alone that a cache without pruning would hold.
    pub dense_bytes: u64,
}

impl KvReport {
    /// The share of entries that is still held: 1 for no tokens at all.
    pub fn keep_ratio(&self) -> f64 {
        if self.logical_entries == 0 { 1.0 } else { self.live_entries as f64 / self.logical_entries as f64 }
    }
}

impl Add for KvReport {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            logical_entries: self.logical_entries + other.logical_entries,
            live_entries: self.live_entries + other.live_entries,
            live_bytes: self.live_bytes + other.live_bytes,
            held_bytes: self.held_bytes + other.held_bytes,
            dense_bytes: self.dense_bytes + other.dense_bytes,
        }
    }
}

impl AddAssign for KvReport {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for KvReport {
    fn sum<I: Iterator<Item = Self>>(reports: I) -> Self {
        reports.fold(Self::default(), Add::add)
    }
}
