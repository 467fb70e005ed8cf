//! What sequences leave in the cache, kept for others that begin alike. Pages of a device have no reference counts, so
//! whoever begins with it gets a copy: memory bandwidth for a prefill.

use dropcap_kernels::PAGE_ENTRIES;

use super::decoder::DeviceDecoder;
use super::{Slot, SlotState};
use crate::ModelError;

/// A cache that takes part in no step. Its entries go when it drops, as those of a sequence do.
#[derive(Debug)]
pub struct KeptCache {
    slot: Slot,
    state: SlotState,
}

impl KeptCache {
    /// Pages that it holds.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.state.pages
    }
}

impl DeviceDecoder {
    /// Keeps a copy of a sequence's cache; none where all places are taken or too few pages are free.
    ///
    /// # Errors
    /// A slot of another decoder, a failed device.
    pub fn keep_copy(&mut self, slot: &Slot) -> Result<Option<KeptCache>, ModelError> {
        let Some((from, kept)) = self.keep(slot)? else { return Ok(None) };
        if kept.state.pages > self.free_pages {
            return Ok(None);
        }
        let to = kept.slot.index() as usize;
        self.lanes.copy_slot(from, to, u32::MAX)?;
        self.copy_beside(from, to)?;
        self.take_pages(kept.state.pages);
        Ok(Some(kept))
    }

    /// Keeps a sequence's cache and leaves the sequence without; none where all places are taken, and then it has it still.
    ///
    /// # Errors
    /// A slot of another decoder, a failed device.
    pub fn keep_all(&mut self, slot: &Slot) -> Result<Option<KeptCache>, ModelError> {
        let Some((from, kept)) = self.keep(slot)? else { return Ok(None) };
        let to = kept.slot.index() as usize;
        self.lanes.move_slot(from, to)?;
        self.copy_beside(from, to)?;
        self.states[from] = SlotState::empty(self.lanes_per_slot());
        Ok(Some(kept))
    }

    /// Begins a sequence that has no entries yet with a copy of what is kept, and says what it has then: the first
    /// `tokens` tokens, where nothing was freed of them, or all of it. None where too few pages are free.
    ///
    /// # Errors
    /// A slot or a cache of another decoder, a failed device.
    pub fn begin_with(
        &mut self,
        slot: &Slot,
        kept: &KeptCache,
        tokens: Option<usize>,
    ) -> Result<Option<SlotState>, ModelError> {
        let to = self.number(slot)?;
        let index = kept.slot.index();
        if !self.kept.own(&kept.slot) {
            return Err(ModelError::Slot { index, problem: "belongs to another decoder" });
        }
        self.clear_left()?;
        let (lanes, from) = (self.lanes_per_slot(), index as usize);
        let state = match tokens {
            None => kept.state,
            Some(tokens) => SlotState {
                wanted: if tokens.is_multiple_of(PAGE_ENTRIES) { lanes } else { 0 },
                pages: lanes * tokens.div_ceil(PAGE_ENTRIES),
                live: lanes * tokens,
                overflow: None,
            },
        };
        if state.pages > self.free_pages {
            return Ok(None);
        }
        let entries = tokens.and_then(|tokens| u32::try_from(tokens).ok()).unwrap_or(u32::MAX);
        self.lanes.copy_slot(from, to, entries)?;
        self.copy_beside(from, to)?;
        self.take_pages(state.pages);
        self.states[to] = state;
        Ok(Some(state))
    }

    /// The number of a sequence, and a place for what is to be kept of it.
    fn keep(&mut self, slot: &Slot) -> Result<Option<(usize, KeptCache)>, ModelError> {
        let from = self.number(slot)?;
        self.clear_left()?;
        let state = self.states[from];
        Ok(self.kept.take().map(|slot| (from, KeptCache { slot, state })))
    }

    /// Gives a slot what is known of another's text beside its entries.
    fn copy_beside(&mut self, from: usize, to: usize) -> Result<(), ModelError> {
        self.copy_place(from, to)?;
        self.copy_changes(from, to)
    }

    fn take_pages(&mut self, pages: usize) {
        self.free_pages -= pages;
        self.peak_pages = self.peak_pages.max(self.capacity() - self.free_pages);
    }
}
