//! Which texts begin with what others have left behind.

use super::Engine;
use crate::EngineError;
use crate::memory::SequenceMemory;
use crate::sequence::Sequence;

impl Engine {
    /// Memory for the sequence that joins next, and how many of its tokens are in it already; none where all places are
    /// taken.
    pub(super) fn open_first(&mut self) -> Result<Option<(SequenceMemory, usize)>, EngineError> {
        let Some(first) = self.waiting.front() else { return Ok(None) };
        let most = first.shareable(self.demand.needs());
        let found = self.prefixes.as_mut().and_then(|kept| kept.find(first.key(), first.text(), most));
        if let Some(cache) = found {
            let tokens = cache.next_position() as usize;
            if let Some(memory) = self.backend.hold(cache) {
                return Ok(Some((memory, tokens)));
            }
        }
        Ok(self.backend.open(first.sampling(), first.text())?.map(|memory| (memory, 0)))
    }

    /// Keeps what the prompts that moved on have reached.
    pub(super) fn keep_beginnings(&mut self) {
        let Some(kept) = &mut self.prefixes else { return };
        for sequence in &self.running {
            let fed = sequence.memory.next_position() as usize;
            if kept.keeps_on_the_way(fed, sequence.context())
                && let Some(cache) = sequence.memory.host_cache()
            {
                kept.keep(sequence.key(), sequence.fed(0, fed), cache);
            }
        }
    }

    /// Keeps what a text that is over has reached.
    pub(super) fn keep_end(&mut self, sequence: &Sequence) {
        let Some(kept) = self.prefixes.as_mut().filter(|kept| kept.keeps_ends()) else { return };
        if let Some(cache) = sequence.memory.host_cache() {
            kept.keep(sequence.key(), sequence.fed(0, cache.next_position() as usize), cache);
        }
    }

    /// Gives up what was kept, the least recently used first, until `is_enough`; says whether it is.
    pub(super) fn yield_prefixes(&mut self, is_enough: impl Fn(&Self) -> bool) -> bool {
        while !is_enough(self) {
            if self.prefixes.as_mut().is_none_or(|kept| kept.drop_oldest().is_break()) {
                return false;
            }
        }
        true
    }
}
