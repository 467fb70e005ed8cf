//! Who has which slot of the cache.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// One sequence's place in the cache of a [`super::DeviceDecoder`]. Its entries go when it drops; the decoder frees
/// their pages before it looks at the pool again.
#[derive(Debug)]
pub struct Slot {
    index: u32,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    free: Vec<u32>,
    left: Vec<u32>,
}

/// Some slots of a cache.
#[derive(Debug)]
pub(super) struct Slots(Arc<Shared>);

impl Slot {
    /// Number of the slot.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.state().left.push(self.index);
    }
}

impl Slots {
    pub(super) fn new(numbers: Range<usize>) -> Self {
        // Taken from the end, so the first sequence gets the first.
        let free = numbers.rev().map(|number| number as u32).collect();
        Self(Arc::new(Shared(Mutex::new(State { free, left: Vec::new() }))))
    }

    /// A slot without entries, unless all are taken; the decoder clears those that were left beforehand.
    pub(super) fn take(&self) -> Option<Slot> {
        let index = self.0.state().free.pop()?;
        Some(Slot { index, shared: Arc::clone(&self.0) })
    }

    /// Whether the slot is one of these.
    pub(super) fn own(&self, slot: &Slot) -> bool {
        Arc::ptr_eq(&self.0, &slot.shared)
    }

    /// The slots that were left since the last call; they can be taken again, once they have been cleared.
    pub(super) fn left(&self) -> Vec<u32> {
        let mut state = self.0.state();
        let left = std::mem::take(&mut state.left);
        state.free.extend(&left);
        left
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn a_slot_belongs_to_the_slots_that_gave_it() {
        let (these, others) = (Slots::new(0..2), Slots::new(0..2));
        let slot = these.take().unwrap();
        assert!(these.own(&slot) && !others.own(&slot));
    }

    #[test]
    fn a_slot_is_taken_again_once_it_was_left() {
        let slots = Slots::new(0..2);
        let (first, _second) = (slots.take().unwrap(), slots.take().unwrap());
        assert!(slots.take().is_none());
        let index = first.index();
        drop(first);
        assert!(slots.take().is_none(), "not before the decoder has cleared it");
        assert_eq!(slots.left(), [index]);
        assert_eq!(slots.take().map(|slot| slot.index()), Some(index));
    }
}
