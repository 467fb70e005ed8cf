//! How a lane loses entries.

use std::sync::Arc;

use dropcap_kernels::{KernelError, PAGE_ENTRIES};

use super::Lane;
use crate::page::{is_shared, write_page};
use crate::{CacheError, Death, NEVER, Page};

impl Lane {
    /// Frees every entry that no query from `now` on sees (`expires_at <= now`), tells `died` of each, and gives
    /// their number. Pages that become empty are in the pool again when this returns.
    ///
    /// Where nothing can have expired this costs one comparison, otherwise O(e) and one entry's copy per freed
    /// place. Dead entries in a page that a fork shares cost a copy of the page; where the pool has no room for
    /// it, all dead entries stay, unseen, until a later reclaim, and the result is 0.
    ///
    /// Errors: [`CacheError::Kernel`] where the system has no memory for that copy; then nothing has changed.
    pub fn reclaim(&mut self, now: u32, died: &mut dyn FnMut(Death)) -> Result<usize, CacheError> {
        if self.soonest > now || self.is_empty() {
            return Ok(0);
        }
        let live = self.expires_at.iter().filter(|&&expires_at| expires_at > now).count();
        if live < self.len() {
            let dead = |_position: u32, expires_at: u32| expires_at <= now;
            match self.own_holes(live, dead) {
                Err(CacheError::PoolExhausted { .. }) => return Ok(0),
                owned => owned?,
            }
            let lifetimes = self.expires_at.iter().zip(&self.killers);
            for (&position, (&expires_at, &killer)) in self.positions.iter().zip(lifetimes) {
                if dead(position, expires_at) {
                    died(Death { position, expires_at, killer });
                }
            }
            let freed = self.len() - live;
            self.compact(live, dead)?;
            self.find_soonest();
            return Ok(freed);
        }
        self.find_soonest();
        Ok(0)
    }

    /// Forgets every entry from `position` on, as if their tokens had never come; nobody died.
    ///
    /// Lifetimes that the forgotten tokens lowered stay low: a token that comes again decides the same again,
    /// another one finds what is left.
    ///
    /// Errors: as [`Lane::append`] where a page is shared with a fork and cannot be copied; then nothing has
    /// changed.
    pub fn rewind(&mut self, position: u32) -> Result<(), CacheError> {
        self.overflow.take_if(|found| found.position >= position);
        let live = self.positions.iter().filter(|&&at| at < position).count();
        if live < self.len() {
            let forgotten = |at: u32, _expires_at: u32| at >= position;
            self.own_holes(live, forgotten)?;
            self.compact(live, forgotten)?;
            self.find_soonest();
        }
        Ok(())
    }

    /// Keeps the first `len` entries in the lane's own order: after an append, takes the newest back.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        self.positions.truncate(len);
        self.expires_at.truncate(len);
        self.killers.truncate(len);
        let statistics = self.pool.statistics();
        self.statistics.truncate(len * statistics);
        self.pages.truncate(len.div_ceil(PAGE_ENTRIES));
        // A lane that was long once must not hold its metadata for ever; twice the need spares the next growth.
        if self.positions.capacity() > 4 * len.max(PAGE_ENTRIES) {
            let spare = 2 * len.max(PAGE_ENTRIES);
            self.positions.shrink_to(spare);
            self.expires_at.shrink_to(spare);
            self.killers.shrink_to(spare);
            self.statistics.shrink_to(spare * statistics);
            self.pages.shrink_to(spare.div_ceil(PAGE_ENTRIES));
        }
    }

    /// Forgets all entries and gives all pages back.
    pub fn clear(&mut self) {
        self.truncate(0);
        self.soonest = NEVER;
    }

    fn find_soonest(&mut self) {
        self.soonest = self.expires_at.iter().copied().min().unwrap_or(NEVER);
    }

    /// Copies the shared ones among the pages that [`Lane::compact`] will write: those with a place below `live`
    /// to fill. Afterwards compaction needs no memory.
    fn own_holes(&mut self, live: usize, dead: impl Fn(u32, u32) -> bool) -> Result<(), CacheError> {
        let positions = self.positions[..live].chunks(PAGE_ENTRIES);
        let lifetimes = self.expires_at[..live].chunks(PAGE_ENTRIES);
        for ((positions, lifetimes), page) in positions.zip(lifetimes).zip(&mut self.pages) {
            let mut entries = positions.iter().zip(lifetimes);
            if entries.any(|(&position, &expires_at)| dead(position, expires_at)) && is_shared(page) {
                write_page(page, &self.pool, |_| ())?;
            }
        }
        Ok(())
    }

    /// Moves the last live entries into the dead places below `live`, the number of entries that live.
    fn compact(&mut self, live: usize, dead: impl Fn(u32, u32) -> bool) -> Result<(), CacheError> {
        let (mut source, statistics) = (self.len(), self.pool.statistics());
        for hole in 0..live {
            if !dead(self.positions[hole], self.expires_at[hole]) {
                continue;
            }
            // There are as many live entries from `live` on as dead ones below it.
            while source > live {
                source -= 1;
                if !dead(self.positions[source], self.expires_at[source]) {
                    break;
                }
            }
            self.copy_entry(source, hole)?;
            self.positions[hole] = self.positions[source];
            self.expires_at[hole] = self.expires_at[source];
            self.killers[hole] = self.killers[source];
            let from = source * statistics;
            self.statistics.copy_within(from..from + statistics, hole * statistics);
        }
        self.truncate(live);
        Ok(())
    }

    /// Copies what pages hold of an entry down to an earlier place, whose page must not be shared.
    fn copy_entry(&mut self, source: usize, target: usize) -> Result<(), CacheError> {
        let layout = self.pool.layout();
        let (from, to) = (source % PAGE_ENTRIES, target % PAGE_ENTRIES);
        let (front, back) = self.pages.split_at_mut(source / PAGE_ENTRIES);
        let copy = |page: &mut Arc<Page>, copy: &mut dyn FnMut(&mut _) -> Result<(), KernelError>| {
            write_page(page, &self.pool, copy)?.map_err(CacheError::from)
        };
        match (front.get_mut(target / PAGE_ENTRIES), back.first_mut()) {
            (Some(page), Some(source)) => {
                copy(page, &mut |page| layout.copy_entry(source.buffer(), from, page, to))
            }
            (None, Some(page)) => copy(page, &mut |page| layout.copy_entry_within(page, from, to)),
            (_, None) => Ok(()),
        }
    }
}
