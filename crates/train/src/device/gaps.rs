//! Places without values: what products alone read and nobody changes is in their format and nowhere else.

use std::ops::Range;

use super::place::ALIGNMENT;

/// Stretches of places that have no value, so that those behind them move up.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// In order; with each, how many numbers up to its end have no value.
    gaps: Vec<(Range<usize>, usize)>,
}

impl Gaps {
    /// Of tensors' places, which do not overlap.
    pub(super) fn of(mut places: Vec<Range<usize>>) -> Self {
        places.sort_by_key(|place| place.start);
        let mut missing = 0;
        let gaps = places.into_iter().map(|place| {
            // What follows begins at an address of whole vectors without it, too.
            let gap = place.start..place.end.next_multiple_of(ALIGNMENT);
            missing += gap.len();
            (gap, missing)
        });
        Self { gaps: gaps.collect() }
    }

    /// Numbers that have no value.
    pub(super) fn len(&self) -> usize {
        self.gaps.last().map_or(0, |(_, missing)| *missing)
    }

    /// Where the values of a place are; nowhere in a gap.
    pub(super) fn stored(&self, place: &Range<usize>) -> Option<Range<usize>> {
        let before = self.gaps.partition_point(|(gap, _)| gap.end <= place.start);
        let missing = before.checked_sub(1).map_or(0, |last| self.gaps[last].1);
        let is_free = self.gaps.get(before).is_none_or(|(gap, _)| place.end <= gap.start);
        is_free.then(|| place.start - missing..place.end - missing)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_no_gap_has_its_own_values_in_the_same_order(
            lengths in prop::collection::vec((1_usize..300, any::<bool>()), 1..20)
        ) {
            let (mut end, mut gaps, mut kept) = (0_usize, Vec::new(), Vec::new());
            for (length, is_gap) in lengths {
                let start = end.next_multiple_of(ALIGNMENT);
                end = start + length;
                if is_gap { gaps.push(start..end) } else { kept.push(start..end) }
            }
            let all = end.next_multiple_of(ALIGNMENT);
            let places = Gaps::of(gaps.iter().rev().cloned().collect());
            let mut last = 0;
            for place in kept {
                let stored = places.stored(&place).unwrap();
                prop_assert!(stored.start >= last && stored.len() == place.len());
                prop_assert_eq!(stored.start % ALIGNMENT, 0);
                last = stored.end;
            }
            prop_assert!(last <= all - places.len());
            for gap in gaps {
                prop_assert_eq!(places.stored(&gap), None);
                prop_assert_eq!(places.stored(&(gap.start..gap.start + 1)), None);
            }
        }
    }
}
