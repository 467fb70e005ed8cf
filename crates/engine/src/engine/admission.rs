//! Who joins the batch, and who gives way.

use dropcap_kernels::PAGE_ENTRIES;

use super::Engine;
use crate::sequence::Sequence;
use crate::{EngineError, FinishReason, Output};

/// A prompt that joins is promised pages for so many tokens at a time beside what it holds, or for as many as its method
/// wants together: one page a lane more than token by token, and still full blocks for the kernels. What is free beyond
/// that makes its chunks larger.
const STEP: usize = PAGE_ENTRIES;

impl Engine {
    /// Moves queued sequences into the batch, in their order, while the pages of their texts are free.
    pub(super) fn admit(&mut self) -> Result<(), EngineError> {
        while self.running.len() < self.options.max_batch && !self.waiting.is_empty() {
            if self.crowded || !self.yield_prefixes(Self::first_may_join)? {
                break;
            }
            let Some((memory, shared)) = self.open_first()? else { break };
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            (sequence.memory, sequence.cached_tokens) = (memory, shared);
            if let Some(recorder) = &mut self.recorder {
                recorder.begin(&mut sequence);
            }
            self.running.push(sequence);
        }
        Ok(())
    }

    /// Whether the pages of the whole text of the first in the queue are free: beside those that are promised, and
    /// those that the others will take while the text goes in.
    fn first_may_join(&self) -> bool {
        let Some(first) = self.waiting.front() else { return false };
        // Alone it may try: token by token it takes less, and a method that depends on the text may free enough.
        if self.running.is_empty() {
            return true;
        }
        let prompts = self.running.iter().filter(|sequence| sequence.is_prefilling());
        let tokens = prompts.map(|sequence| sequence.pending().len()).sum::<usize>() + first.text().len();
        let steps = tokens.div_ceil(self.options.chunk);
        let others = self.running.iter().map(|sequence| {
            if sequence.is_prefilling() {
                self.reserved(sequence)
            } else {
                self.growth(sequence, steps.min(sequence.left()), 1)
            }
        });
        let wanted = others.fold(self.demand.most(first.size(), self.promised(first)), usize::saturating_add);
        wanted <= self.backend.free_pages()
    }

    /// Free pages that nobody else may take: none once its text is in.
    pub(super) fn reserved(&self, sequence: &Sequence) -> usize {
        if !sequence.is_prefilling() {
            return 0;
        }
        self.growth(sequence, sequence.pending().len(), self.promised(sequence))
    }

    /// Tokens at a time that a prompt has pages for.
    fn promised(&self, sequence: &Sequence) -> usize {
        STEP.max(self.demand.needs().together(sequence.context()))
    }

    /// Pages that `tokens` more tokens of a sequence can take at most, fed by up to `step` at a time.
    fn growth(&self, sequence: &Sequence, tokens: usize, step: usize) -> usize {
        let bound = self.demand.most(sequence.size_with(tokens), step);
        let own = bound.saturating_sub(sequence.memory.pages_held());
        sequence.pages_for(tokens).min(own.saturating_add(sequence.memory.copies_wanted()))
    }

    /// Nobody can move. The youngest of those that hold memory gives way and starts again later; one that is alone
    /// ends with the text that it has, and fails if it has none.
    pub(super) fn make_room(&mut self, outputs: &mut Vec<Output>) -> Result<(), EngineError> {
        let holds = |sequence: &Sequence| sequence.memory.next_position() > 0;
        let Some(youngest) = self.running.iter().rposition(holds) else { return Ok(()) };
        let mut sequence = self.running.remove(youngest);
        if self.running.iter().any(holds) {
            sequence.restart();
            self.waiting.push_front(sequence);
            self.crowded = true;
            return self.backend.settle();
        }
        let (tokens, held) = (sequence.memory.next_position() as usize, sequence.memory.pages_held());
        let shortage = self.demand.shortage(tokens, held, sequence.pages_for(1));
        outputs.push(if sequence.has_generated() {
            Output::Finished(self.end(sequence, FinishReason::OutOfMemory(shortage)))
        } else {
            self.fail(sequence, EngineError::OutOfMemory(shortage))
        });
        Ok(())
    }
}
