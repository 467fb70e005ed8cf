//! Which sequences take part in a step, and with how many tokens.
//!
//! Running sequences come first, oldest first, so that a text once begun keeps flowing; prompts share what
//! is left of the step's token budget. A step is only planned if its pages are there beforehand: a sequence
//! that does not fit waits, and the forward pass never runs out of memory half-way. Where memory is short a
//! prompt goes in smaller chunks, because a policy may free enough between them.

use crate::sequence::Sequence;

/// What one sequence contributes to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Index into the sequences that were planned over.
    pub(crate) index: usize,
    /// Tokens to feed, at least one.
    pub(crate) tokens: usize,
}

/// Plans one step over `sequences` (oldest first) with at most `chunk` prompt tokens, within `free_pages`.
pub(crate) fn plan(sequences: &[Sequence], chunk: usize, mut free_pages: usize) -> Vec<Share> {
    let mut shares = Vec::with_capacity(sequences.len());
    let mut budget = chunk;
    // Two passes keep decoding sequences ahead of prompts without reordering the batch.
    for prefilling in [false, true] {
        for (index, sequence) in sequences.iter().enumerate() {
            if sequence.is_prefilling() != prefilling {
                continue;
            }
            let mut tokens = if prefilling { sequence.feedable().min(budget) } else { 1 };
            while tokens > 1 && sequence.pages_for(tokens) > free_pages {
                tokens /= 2;
            }
            let pages = sequence.pages_for(tokens);
            if tokens == 0 || pages > free_pages {
                continue;
            }
            free_pages -= pages;
            if prefilling {
                budget -= tokens;
            }
            shares.push(Share { index, tokens });
        }
    }
    shares.sort_unstable_by_key(|share| share.index);
    shares
}
