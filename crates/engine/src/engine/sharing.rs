//! Which texts begin with what others have left behind.

use super::Engine;
use crate::EngineError;
use crate::backend::Backend;
use crate::memory::SequenceMemory;
use crate::prefix::Prefixes;
use crate::sequence::Sequence;

impl Engine {
    /// Memory for the sequence that joins next, and how many of its tokens are in it already; none where all places are
    /// taken.
    pub(super) fn open_first(&mut self) -> Result<Option<(SequenceMemory, usize)>, EngineError> {
        let Some(first) = self.waiting.front() else { return Ok(None) };
        let Some(memory) = self.backend.open(first.sampling(), first.text())? else { return Ok(None) };
        let most = first.shareable(self.demand.needs());
        let found = self.prefixes.as_mut().and_then(|kept| kept.find(first.key(), first.text(), most));
        let Some((kept, tokens)) = found else { return Ok(Some((memory, 0))) };
        let memory = self.backend.begin_with(memory, kept, tokens)?;
        let shared = memory.next_position() as usize;
        Ok(Some((memory, shared)))
    }

    /// Keeps what the prompts that moved on have reached.
    pub(super) fn keep_beginnings(&mut self) -> Result<(), EngineError> {
        let Some(prefixes) = &mut self.prefixes else { return Ok(()) };
        for sequence in &self.running {
            let fed = sequence.memory.next_position() as usize;
            if prefixes.keeps_on_the_way(fed, sequence.context()) {
                keep(prefixes, &mut self.backend, sequence, Backend::keep)?;
            }
        }
        Ok(())
    }

    /// Keeps what a text that is over has reached.
    pub(super) fn keep_end(&mut self, sequence: &Sequence) -> Result<(), EngineError> {
        match &mut self.prefixes {
            Some(prefixes) if prefixes.keeps_ends() => {
                keep(prefixes, &mut self.backend, sequence, Backend::keep_last)
            }
            _ => Ok(()),
        }
    }

    /// Gives up what was kept, the least recently used first, until `is_enough`; says whether it is.
    pub(super) fn yield_prefixes(&mut self, is_enough: impl Fn(&Self) -> bool) -> Result<bool, EngineError> {
        while !is_enough(self) {
            if self.prefixes.as_mut().is_none_or(|kept| kept.drop_oldest().is_break()) {
                return Ok(false);
            }
            self.backend.settle()?;
        }
        Ok(true)
    }
}

/// Keeps the cache of a sequence as `how` does, unless it is there already.
fn keep(
    prefixes: &mut Prefixes,
    backend: &mut Backend,
    sequence: &Sequence,
    how: KeepMemory,
) -> Result<(), EngineError> {
    let memory = &sequence.memory;
    let (key, tokens) = (sequence.key(), sequence.fed(0, memory.next_position() as usize));
    if memory.check_range().is_ok()
        && prefixes.makes_room(key, tokens, memory.pages_held())
        && let Some(kept) = how(backend, memory)?
    {
        prefixes.add(key, tokens, kept);
    }
    Ok(())
}

/// A way to keep a cache; none where there is no room for it.
type KeepMemory = fn(&mut Backend, &SequenceMemory) -> Result<Option<crate::memory::KeptMemory>, EngineError>;
