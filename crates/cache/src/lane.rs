//! The live entries of one sequence in one layer and head group.

use std::ops::Range;
use std::sync::Arc;

use dropcap_kernels::lifetimes::{Floors, Lifetime};
use dropcap_kernels::{LaneView, PAGE_ENTRIES};

use crate::error::CacheError;
use crate::range::Overflow;
use crate::{NEVER, Page, PagePool};

mod grow;
mod rows;
mod shrink;

/// Bytes that an entry takes beside its page: position, lifetime, killer and statistics.
pub(crate) fn metadata_bytes(pool: &PagePool) -> usize {
    (3 + pool.statistics()) * size_of::<u32>()
}

/// The entries of one (sequence, layer, head group), dense: entry i is slot `i % 32` of page `i / 32`.
///
/// A head group is the whole layer for layer-wise methods, one KV head for head-wise ones. The order of entries
/// means nothing: [`Lane::reclaim`] moves the last live entries into the places of the dead. New entries come at
/// the end ([`Lane::newest`]).
///
/// Invariants: a lifetime never grows; an entry is visible at least to its own token's query; e entries occupy
/// `ceil(e / 32)` pages; side channels and statistics move with their entry.
#[derive(Debug)]
pub struct Lane {
    pool: PagePool,
    pages: Vec<Arc<Page>>,
    positions: Vec<u32>,
    expires_at: Vec<u32>,
    killers: Vec<u32>,
    /// `[e, s]`
    statistics: Vec<f32>,
    /// No entry expires before this: what makes a reclaim that frees nothing cost nothing.
    soonest: u32,
    /// The first number that its pages could not hold, until [`KvCache`](crate::KvCache) asks.
    overflow: Option<Overflow>,
    /// Held by all lanes that may share pages with this one: itself, what it was forked from, its forks.
    family: Arc<()>,
}

impl Lane {
    /// A lane without entries; it takes pages as it grows.
    pub fn new(pool: &PagePool) -> Self {
        Self {
            pool: pool.clone(),
            pages: Vec::new(),
            positions: Vec::new(),
            expires_at: Vec::new(),
            killers: Vec::new(),
            statistics: Vec::new(),
            soonest: NEVER,
            overflow: None,
            family: Arc::default(),
        }
    }

    /// Number of live entries e.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Position of each entry's token `[e]`, in any order.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// First query position that no longer sees each entry `[e]`; [`NEVER`] where nothing condemned it.
    pub fn expires_at(&self) -> &[u32] {
        &self.expires_at
    }

    /// The query that condemned each entry `[e]`; [`NEVER`] where none did.
    pub fn killers(&self) -> &[u32] {
        &self.killers
    }

    /// What a method sums up about each entry, f32 `[e, s]` with the pool's s ([`PagePool::statistics`]): zeros for a new
    /// entry. Unlike side channels they lie beside the pages, whatever the pages' format, and may be changed for every
    /// entry.
    pub fn statistics(&self) -> &[f32] {
        &self.statistics
    }

    /// The statistics, to be changed.
    pub fn statistics_mut(&mut self) -> &mut [f32] {
        &mut self.statistics
    }

    /// The last `count` entries: after an append of `count`, and until the next reclaim, the new ones.
    pub fn newest(&self, count: usize) -> Range<usize> {
        self.len().saturating_sub(count)..self.len()
    }

    /// Pages that the lane holds, those included that it shares with a fork.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Bytes of the lane's pages and of what it holds beside them.
    pub fn held_bytes(&self) -> usize {
        let lifetimes = self.positions.capacity() + self.expires_at.capacity() + self.killers.capacity();
        let metadata = lifetimes + self.statistics.capacity();
        self.pages.len() * self.pool.layout().bytes() + metadata * size_of::<u32>()
    }

    /// The lane as kernels read it.
    pub fn view(&self) -> LaneView<'_> {
        LaneView {
            layout: self.pool.layout(),
            pages: self.pages.iter().map(|page| page.buffer()).collect(),
            positions: &self.positions,
            expires_at: &self.expires_at,
        }
    }

    /// Lowers an entry's lifetime and says whether it now ends earlier.
    ///
    /// A lifetime never grows, and a token never kills itself: `expires_at` is raised to the entry's position +
    /// 1 first. `killer` is the query that decides; it is brought into `position..=expires_at`. Of two that end
    /// an entry at the same query the earlier one is its killer, whichever was told first. Without such an
    /// entry nothing changes.
    pub fn lower(&mut self, entry: usize, expires_at: u32, killer: u32) -> bool {
        let found = (self.positions.get(entry), self.expires_at.get_mut(entry), self.killers.get_mut(entry));
        let (Some(&position), Some(ends), Some(decided)) = found else {
            return false;
        };
        let mut life = Lifetime { expires_at: *ends, killer: *decided };
        // A token sees itself: the lowest floor there is.
        let earlier = life.lower(position, expires_at, killer, Floors::default());
        (*ends, *decided) = (life.expires_at, life.killer);
        self.soonest = self.soonest.min(life.expires_at);
        earlier
    }

    /// A second lane with the same entries, which shares the pages until one of both writes them.
    pub fn fork(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            pages: self.pages.clone(),
            positions: self.positions.clone(),
            expires_at: self.expires_at.clone(),
            killers: self.killers.clone(),
            statistics: self.statistics.clone(),
            soonest: self.soonest,
            overflow: self.overflow,
            family: Arc::clone(&self.family),
        }
    }

    /// The first number that its pages could not hold since the last call.
    pub(crate) fn take_overflow(&mut self) -> Option<Overflow> {
        self.overflow.take()
    }

    /// One entry's key for one head `[d]`, widened: slow, for inspection and tests.
    pub fn read_key(&self, entry: usize, head: usize) -> Result<Vec<f32>, CacheError> {
        Ok(self.pool.layout().read_key(self.page_of(entry)?.buffer(), entry % PAGE_ENTRIES, head)?)
    }

    /// One entry's value for one head `[d]`, widened: slow, for inspection and tests.
    pub fn read_value(&self, entry: usize, head: usize) -> Result<Vec<f32>, CacheError> {
        Ok(self.pool.layout().read_value(self.page_of(entry)?.buffer(), entry % PAGE_ENTRIES, head)?)
    }

    /// One entry's row of a side channel `[width]`, widened: slow, for policies that keep a few numbers.
    pub fn read_side(&self, entry: usize, channel: usize) -> Result<Vec<f32>, CacheError> {
        Ok(self.pool.layout().read_side(self.page_of(entry)?.buffer(), entry % PAGE_ENTRIES, channel)?)
    }

    fn page_of(&self, entry: usize) -> Result<&Page, CacheError> {
        let bounds = CacheError::Bounds { op: "read entry", what: "an entry", limit: self.len(), got: entry };
        if entry >= self.len() {
            return Err(bounds);
        }
        self.pages.get(entry / PAGE_ENTRIES).map(|page| &**page).ok_or(bounds)
    }
}
