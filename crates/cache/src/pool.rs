//! The pool that all lanes of all sequences take their pages from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dropcap_kernels::{Buffer, ElementsMut, PageLayout};
use half::{bf16, f16};

use crate::{CacheError, Page};

/// Pages that the pool may retain however few are in use: they absorb the comings and goings of short requests.
const RETAINED_PAGES: usize = 64;
/// Beyond that it retains at most one page for so many in use, so that idle memory follows the load down.
const IN_USE_PER_RETAINED: usize = 8;

/// Pages of one layout under one byte limit, for all layers and sequences; a clone is the same pool.
///
/// A page that its last owner drops is in the pool again at once. A few free pages are retained for the next
/// owner (at most 64, or an eighth of the pages in use); the others go back to the allocator. Pages in use and
/// retained pages together never exceed the limit. Whoever takes a page gets it zeroed: what another sequence
/// wrote cannot be read.
#[derive(Debug, Clone)]
pub struct PagePool(Arc<Shared>);

/// What a pool's pages take, all at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUsage {
    /// Bytes that all pages together may take.
    pub limit_bytes: Option<usize>,
    /// Bytes of the pages that lanes hold; a page that forks share counts once.
    pub held_bytes: usize,
    /// Bytes of the free pages that wait for their next owner.
    pub retained_bytes: usize,
    /// The largest `held_bytes` so far.
    pub peak_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Shared {
    layout: PageLayout,
    statistics: usize,
    limit: Option<usize>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Buffer>,
    in_use: usize,
    peak: usize,
}

impl PagePool {
    /// A pool of pages of one layout that together take at most `limit_bytes`, or as much as there is.
    pub fn new(layout: PageLayout, limit_bytes: Option<usize>) -> Self {
        Self::with_statistics(layout, limit_bytes, 0)
    }

    /// The same for lanes that keep `statistics` f32 numbers beside each entry ([`Lane::statistics`](crate::Lane)).
    pub fn with_statistics(layout: PageLayout, limit_bytes: Option<usize>, statistics: usize) -> Self {
        Self(Arc::new(Shared { layout, statistics, limit: limit_bytes, state: Mutex::default() }))
    }

    /// f32 numbers that lanes keep beside each entry.
    pub fn statistics(&self) -> usize {
        self.0.statistics
    }

    /// The layout of every page.
    pub fn layout(&self) -> &PageLayout {
        &self.0.layout
    }

    /// Bytes that all pages together may take.
    pub fn limit_bytes(&self) -> Option<usize> {
        self.0.limit
    }

    /// What the pages take, all at one moment: their sum never exceeds the limit.
    pub fn usage(&self) -> PoolUsage {
        let (bytes, limit_bytes) = (self.0.layout.bytes(), self.0.limit);
        let state = self.0.state();
        PoolUsage {
            limit_bytes,
            held_bytes: state.in_use * bytes,
            retained_bytes: state.free.len() * bytes,
            peak_bytes: state.peak * bytes,
        }
    }

    /// Pages that lanes hold; a page that forks share counts once.
    pub fn pages_in_use(&self) -> usize {
        self.0.state().in_use
    }

    /// Bytes of the pages that lanes hold; retained pages are not among them.
    pub fn held_bytes(&self) -> usize {
        self.usage().held_bytes
    }

    /// Bytes of the free pages that wait for their next owner.
    pub fn retained_bytes(&self) -> usize {
        self.usage().retained_bytes
    }

    /// The largest [`PagePool::held_bytes`] so far.
    pub fn peak_bytes(&self) -> usize {
        self.usage().peak_bytes
    }

    /// Pages that could be taken now: what the limit leaves, and as many as can be counted where there is none.
    pub fn pages_available(&self) -> usize {
        let in_use = self.pages_in_use();
        self.0.limit.map_or(usize::MAX, |limit| limit / self.0.layout.bytes()).saturating_sub(in_use)
    }

    /// One zeroed page; errors as in [`PagePool::take_many`].
    pub fn take(&self) -> Result<Page, CacheError> {
        let buffer = match self.0.reserve(1)?.pop() {
            Some(buffer) => buffer,
            None => self.0.layout.zeroed_page().inspect_err(|_| self.0.cancel(1))?,
        };
        Ok(self.page(buffer))
    }

    /// `count` zeroed pages, or none at all.
    ///
    /// Errors: [`CacheError::PoolExhausted`] where the limit leaves no room for all of them,
    /// [`CacheError::Kernel`] where the system has no memory for them.
    pub fn take_many(&self, count: usize) -> Result<Vec<Page>, CacheError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let recycled = self.0.reserve(count)?;
        let missing = count - recycled.len();
        let mut pages: Vec<Page> = recycled.into_iter().map(|buffer| self.page(buffer)).collect();
        for made in 0..missing {
            // The pages so far go back by being dropped, the others by cancelling.
            let buffer = self.0.layout.zeroed_page().inspect_err(|_| self.0.cancel(missing - made))?;
            pages.push(self.page(buffer));
        }
        Ok(pages)
    }

    fn page(&self, buffer: Buffer) -> Page {
        Page::new(buffer, Arc::clone(&self.0))
    }
}

impl Shared {
    /// Counts `count` pages as in use and gives those of them that were retained, zeroed.
    fn reserve(&self, count: usize) -> Result<Vec<Buffer>, CacheError> {
        let mut recycled = {
            let mut state = self.state();
            let bytes = self.layout.bytes();
            let in_use = state.in_use.saturating_add(count);
            if let Some(limit) = self.limit
                && in_use.saturating_mul(bytes) > limit
            {
                let (held, wanted) = (state.in_use * bytes, count.saturating_mul(bytes));
                return Err(CacheError::PoolExhausted { limit, held, wanted });
            }
            state.in_use = in_use;
            state.peak = state.peak.max(in_use);
            let rest = state.free.len().saturating_sub(count);
            state.free.split_off(rest)
        };
        recycled.iter_mut().for_each(zero);
        Ok(recycled)
    }

    /// Takes back the count of pages that could not be allocated.
    fn cancel(&self, count: usize) {
        let mut state = self.state();
        state.in_use = state.in_use.saturating_sub(count);
    }

    pub(crate) fn give_back(&self, buffer: Buffer) {
        // Freeing can be a system call; it happens after the lock is gone.
        let _surplus = {
            let mut state = self.state();
            state.in_use = state.in_use.saturating_sub(1);
            state.free.push(buffer);
            let keep = RETAINED_PAGES.max(state.in_use / IN_USE_PER_RETAINED).min(state.free.len());
            state.free.split_off(keep)
        };
    }

    /// A thread that panicked elsewhere cannot have left the counts half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn zero(buffer: &mut Buffer) {
    match buffer.elements_mut() {
        ElementsMut::F32(all) => all.fill(0.0),
        ElementsMut::F16(all) => all.fill(f16::ZERO),
        ElementsMut::Bf16(all) => all.fill(bf16::ZERO),
    }
}
