//! What was chosen of a batch, in as few windows as it needs.

use std::ops::Range;

use dropcap_kernels::cross_entropy::IGNORE;

use crate::data::Batch;

/// An example, or what is learned of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its rows in the batch.
    pub rows: Range<usize>,
    /// What those predict, u32 of as many.
    pub targets: Vec<u32>,
    /// Which shard it is of.
    pub origin: usize,
}

/// What is learned of the examples of `kept`, in windows of the batch's length, none of them cut: each in the first that has
/// room for it. The number of windows is a multiple of `multiple` and at least `least`. Where that takes no fewer than the
/// batch has, the batch stays as it is, and nothing else of it is learned.
///
/// What is left of a window is filled from the batch's first tokens, from which nothing is learned.
#[must_use]
pub fn pack(batch: &Batch, kept: &[Kept], multiple: usize, least: usize) -> Batch {
    let tokens = batch.tokens;
    let mut used: Vec<usize> = Vec::new();
    let mut place = |length: usize| {
        let window = used.iter().position(|&used| used + length <= tokens).unwrap_or(used.len());
        if window == used.len() {
            used.push(0);
        }
        let first = window * tokens + used[window];
        used[window] += length;
        first
    };
    let firsts: Vec<usize> = kept.iter().map(|kept| place(kept.rows.len())).collect();
    let sequences = used.len().max(least).next_multiple_of(multiple.max(1));
    let is_smaller = sequences < batch.sequences;
    let (ids, sequences) = match is_smaller {
        true => (batch.ids[..tokens].iter().copied().cycle().take(sequences * tokens).collect(), sequences),
        false => (batch.ids.clone(), batch.sequences),
    };
    let origins = kept.iter().map(|kept| kept.origin).collect();
    let targets = vec![IGNORE; ids.len()];
    let mut packed = Batch { ids, targets, sequences, tokens, examples: Vec::new(), origins };
    for (Kept { rows, targets, .. }, first) in kept.iter().zip(firsts) {
        let first = if is_smaller { first } else { rows.start };
        let place = first..first + rows.len();
        packed.ids[place.clone()].copy_from_slice(&batch.ids[rows.clone()]);
        packed.targets[place.clone()].copy_from_slice(targets);
        packed.examples.push(place);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_example_stands_whole_in_one_window_and_nothing_else_is_learned(
            lengths in prop::collection::vec(1_usize..9, 1..9), every in 1_usize..4, multiple in 1_usize..4, least in 0_usize..5,
        ) {
            let tokens = 8;
            let mut batch = Batch { ids: Vec::new(), targets: Vec::new(), sequences: lengths.len(), tokens, examples: Vec::new(), origins: Vec::new() };
            let mut kept = Vec::new();
            for (window, &length) in lengths.iter().enumerate() {
                let first = batch.ids.len();
                batch.ids.extend((0..tokens as u32).map(|at| 100 * window as u32 + at));
                batch.targets.extend((0..tokens as u32).map(|at| 100 * window as u32 + at + 1));
                if window % every == 0 {
                    let rows = first..first + length;
                    kept.push(Kept { rows: rows.clone(), targets: batch.targets[rows].to_vec(), origin: window });
                }
            }
            let packed = pack(&batch, &kept, multiple, least);
            prop_assert_eq!(packed.ids.len(), packed.sequences * tokens);
            prop_assert_eq!(packed.targets.len(), packed.ids.len());
            prop_assert!(packed.sequences <= batch.sequences);
            let is_smaller = packed.sequences < batch.sequences;
            prop_assert!(!is_smaller || packed.sequences >= least && packed.sequences.is_multiple_of(multiple));
            let mut learned = 0;
            for (Kept { rows, targets, .. }, place) in kept.iter().zip(&packed.examples) {
                prop_assert_eq!(&packed.ids[place.clone()], &batch.ids[rows.clone()]);
                prop_assert_eq!(&packed.targets[place.clone()], &targets[..]);
                prop_assert_eq!(place.start / tokens, (place.end - 1) / tokens);
                learned += targets.len();
            }
            prop_assert_eq!(packed.targets.iter().filter(|&&target| target != IGNORE).count(), learned);
        }
    }
}
