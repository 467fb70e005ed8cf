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

/// The examples of `kept`, each its rows in the batch and the targets of them, one behind the other in windows of the batch's
/// length; none is cut. The number of windows is a multiple of `multiple` and at least `least`.
///
/// What is left of a window is filled from the batch's first tokens, from which nothing is learned.
#[must_use]
pub fn pack(batch: &Batch, kept: &[Kept], multiple: usize, least: usize) -> Batch {
    let tokens = batch.tokens;
    let (mut ids, mut targets, mut examples) = (Vec::new(), Vec::new(), Vec::new());
    let fill = |ids: &mut Vec<u32>, targets: &mut Vec<u32>| {
        let missing = ids.len().next_multiple_of(tokens.max(1)) - ids.len();
        ids.extend(batch.ids.iter().take(missing));
        targets.resize(ids.len(), IGNORE);
    };
    for Kept { rows, targets: own, .. } in kept {
        let used = ids.len() % tokens.max(1);
        if used > 0 && used + rows.len() > tokens {
            fill(&mut ids, &mut targets);
        }
        examples.push(ids.len()..ids.len() + rows.len());
        ids.extend_from_slice(&batch.ids[rows.clone()]);
        targets.extend_from_slice(own);
    }
    fill(&mut ids, &mut targets);
    let sequences = (ids.len() / tokens.max(1)).max(least).next_multiple_of(multiple.max(1));
    while ids.len() < sequences * tokens {
        ids.extend(&batch.ids[..tokens]);
        targets.resize(ids.len(), IGNORE);
    }
    let origins = kept.iter().map(|kept| kept.origin).collect();
    Batch { ids, targets, sequences, tokens, examples, origins }
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
            prop_assert!(packed.sequences >= least && packed.sequences.is_multiple_of(multiple));
            prop_assert!(packed.sequences <= kept.len().max(least).next_multiple_of(multiple));
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
