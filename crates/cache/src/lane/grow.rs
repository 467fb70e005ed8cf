//! How a lane gains entries.

use std::ops::Range;
use std::sync::Arc;

use dropcap_kernels::PAGE_ENTRIES;

use super::Lane;
use crate::error::{CacheError, check_rows};
use crate::page::{copy_page, is_shared, write_page};
use crate::range::{Overflow, first_outside};
use crate::{NEVER, Page};

impl Lane {
    /// Appends `count` entries (t) at consecutive positions and gives their numbers.
    ///
    /// `keys` and `values` hold t rows `[heads * d]`, each `stride` elements after the one before, so that both
    /// may lie inside a fused activation. With a window an entry expires at `position + window` (at least
    /// `position + 1`), otherwise never.
    ///
    /// Errors: [`CacheError::PoolExhausted`], [`CacheError::Positions`], [`CacheError::Rows`]; then nothing has
    /// changed.
    pub fn append(
        &mut self,
        first_position: u32,
        count: usize,
        keys: &[f32],
        values: &[f32],
        stride: usize,
        window: Option<u32>,
    ) -> Result<Range<usize>, CacheError> {
        let layout = self.pool.layout();
        let width = layout.heads() * layout.head_dim();
        check_rows("append keys", count, width, stride, keys.len())?;
        check_rows("append values", count, width, stride, values.len())?;
        let end_position = u32::try_from(count)
            .ok()
            .and_then(|count| first_position.checked_add(count))
            .ok_or(CacheError::Positions { first: first_position, count })?;
        let start = self.positions.len();
        let end = start + count;
        self.make_room(count)?;
        let layout = self.pool.layout();
        // One row has no next row, so its stride says nothing; the kernel wants one that holds a row.
        let stride = stride.max(width);
        let mut entry = start;
        while entry < end {
            let slot = entry % PAGE_ENTRIES;
            let run = (PAGE_ENTRIES - slot).min(end - entry);
            let first = (entry - start) * stride;
            // After make_room the page exists and is ours alone.
            if let Some(page) = self.pages.get_mut(entry / PAGE_ENTRIES) {
                write_page(page, &self.pool, |page| {
                    layout.write_keys_values(page, slot, run, &keys[first..], &values[first..], stride)
                })??;
            }
            entry += run;
        }
        for (what, rows) in [("key", keys), ("value", values)] {
            let found = first_outside(layout.format().infinite_from(), rows, count, width, stride);
            if let (None, Some((row, number))) = (self.overflow, found) {
                self.overflow = Some(Overflow { what, position: first_position + row as u32, number });
            }
        }
        self.positions.extend(first_position..end_position);
        self.statistics.resize(end * self.pool.statistics(), 0.0);
        match window {
            None => {
                self.expires_at.resize(end, NEVER);
                self.killers.resize(end, NEVER);
            }
            Some(window) => {
                let lifetimes = (first_position..end_position).map(|p| p.saturating_add(window.max(1)));
                self.expires_at.extend(lifetimes.clone());
                self.killers.extend(lifetimes);
                if count > 0 {
                    self.soonest = self.soonest.min(first_position.saturating_add(window.max(1)));
                }
            }
        }
        Ok(start..end)
    }

    /// Writes one row `[width]` of a side channel for each of `entries`: row i begins at `i * stride`.
    ///
    /// Errors: [`CacheError::Bounds`], [`CacheError::Rows`], before anything has changed;
    /// [`CacheError::PoolExhausted`] where a page is shared with a fork and cannot be copied.
    pub fn write_side(
        &mut self,
        entries: Range<usize>,
        channel: usize,
        rows: &[f32],
        stride: usize,
    ) -> Result<(), CacheError> {
        let op = "write side channel";
        let layout = self.pool.layout();
        let widths = layout.side_widths();
        let bounds = |what, limit, got| CacheError::Bounds { op, what, limit, got };
        let &width = widths.get(channel).ok_or_else(|| bounds("a side channel", widths.len(), channel))?;
        if entries.end > self.positions.len() {
            return Err(bounds("an entry", self.positions.len(), entries.end - 1));
        }
        check_rows(op, entries.len(), width, stride, rows.len())?;
        let limit = layout.side_dtype().infinite_from();
        let found = first_outside(limit, rows, entries.len(), width, stride);
        if let (None, Some((row, number))) = (self.overflow, found) {
            let position = self.positions[entries.start + row];
            self.overflow = Some(Overflow { what: "side channel", position, number });
        }
        for (i, entry) in entries.enumerate() {
            if let Some(page) = self.pages.get_mut(entry / PAGE_ENTRIES) {
                let row = &rows[i * stride..][..width];
                write_page(page, &self.pool, |page| {
                    layout.write_side(page, entry % PAGE_ENTRIES, channel, row)
                })??;
            }
        }
        Ok(())
    }

    /// Pages that an append of `count` entries would take from the pool.
    pub fn pages_wanted(&self, count: usize) -> usize {
        let (new, copied) = self.room_for(count);
        new + usize::from(copied)
    }

    /// Pages that a reclaim after an append of `count` entries takes at most: it copies what a fork sees before it
    /// writes there, and the append itself has copied its own page.
    pub(crate) fn copies_wanted(&self, count: usize) -> usize {
        // Only lanes of one family share pages, and most lanes are alone in theirs.
        if Arc::strong_count(&self.family) == 1 {
            return 0;
        }
        let (_, copied) = self.room_for(count);
        self.pages.iter().filter(|page| is_shared(page)).count() - usize::from(copied)
    }

    /// How many new pages `count` more entries need, and whether the page that the first of them goes to must be
    /// copied because it has entries that a fork sees.
    fn room_for(&self, count: usize) -> (usize, bool) {
        if count == 0 {
            return (0, false);
        }
        let new = (self.len() + count).div_ceil(PAGE_ENTRIES) - self.pages.len();
        let copied = !self.len().is_multiple_of(PAGE_ENTRIES) && self.pages.last().is_some_and(is_shared);
        (new, copied)
    }

    /// Takes all pages that `count` more entries need, at once or not at all.
    fn make_room(&mut self, count: usize) -> Result<(), CacheError> {
        let (new, copied) = self.room_for(count);
        if new == 0 && !copied {
            return Ok(());
        }
        let mut fresh: Vec<Page> = self.pool.take_many(new + usize::from(copied))?;
        if copied
            && let Some(tail) = self.pages.last_mut()
            && let Some(mut copy) = fresh.pop()
        {
            copy_page(tail, &mut copy);
            *tail = Arc::new(copy);
        }
        self.pages.extend(fresh.into_iter().map(Arc::new));
        Ok(())
    }
}
