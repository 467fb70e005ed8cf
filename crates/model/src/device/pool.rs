//! How many pages a device's pool gets, and how many a step takes.

use dropcap_kernels::PAGE_ENTRIES;
use dropcap_kernels::lifetimes::DeathRecord;

use super::SlotState;

/// Most deaths of one step that are told.
const MAX_DEATHS: usize = 1 << 24;

/// What the cache of a decoder is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolShape {
    pub(super) page_bytes: usize,
    /// Lanes of all sequences together.
    pub(super) lanes: usize,
    pub(super) max_positions: usize,
    /// Whether every death is told.
    pub(super) deaths: bool,
}

impl PoolShape {
    /// The pages of a pool of at most `limit` bytes that fits `available` bytes together with all that comes with
    /// it; no more than all sequences can fill.
    pub(super) fn pages(&self, available: usize, limit: Option<usize>) -> usize {
        // One page more for each lane, because what a step takes is rounded up.
        let useful = self.lanes.saturating_mul(self.max_positions.div_ceil(PAGE_ENTRIES) + 1);
        let allowed = limit.unwrap_or(usize::MAX) / self.page_bytes;
        // Kernels count pages in 31 bits.
        let (mut low, mut high) = (0, useful.min(allowed).min(i32::MAX as usize));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.bytes(middle) <= available { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// Most entries of one lane over a pool of so many pages.
    pub(super) fn max_entries(&self, pages: usize) -> usize {
        self.max_positions.min(pages.saturating_mul(PAGE_ENTRIES))
    }

    /// Deaths that there is room for beside so many pages: none where none are told.
    pub(super) fn told_deaths(&self, pages: usize) -> usize {
        if self.deaths { pages.saturating_mul(PAGE_ENTRIES).min(MAX_DEATHS) } else { 0 }
    }

    /// Bytes of so many pages and of what comes with them: the list of the free ones, page tables and lengths of the
    /// lanes, the list of deaths.
    fn bytes(&self, pages: usize) -> usize {
        let table = self.max_entries(pages).div_ceil(PAGE_ENTRIES) + 1;
        let number = size_of::<u32>();
        let pool = pages.saturating_mul(self.page_bytes + number);
        let lanes = self.lanes.saturating_mul(table * number);
        pool.saturating_add(lanes).saturating_add(self.told_deaths(pages) * size_of::<DeathRecord>())
    }
}

impl SlotState {
    /// Of a sequence without entries, of so many lanes in all: each takes a page with its first token.
    #[must_use]
    pub fn empty(lanes: usize) -> Self {
        Self { wanted: lanes, ..Self::default() }
    }

    /// Pages that `tokens` more tokens take at most, of a sequence of so many lanes. Of single lanes only the device
    /// knows the lengths; here is known how many are at the end of a page, and the others have room for one entry at
    /// least. Exact for one token and for an empty sequence.
    #[must_use]
    pub fn most_pages(&self, lanes: usize, tokens: usize) -> usize {
        let others = lanes.saturating_sub(self.wanted);
        self.wanted * tokens.div_ceil(PAGE_ENTRIES) + others * tokens.saturating_sub(1).div_ceil(PAGE_ENTRIES)
    }
}

/// Pages that `tokens` more tokens take in lanes of these lengths.
pub(super) fn pages_for(lengths: &[u32], tokens: usize) -> usize {
    let pages = |entries: usize| entries.div_ceil(PAGE_ENTRIES);
    lengths.iter().map(|&length| pages(length as usize + tokens) - pages(length as usize)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{PAGE_ENTRIES, PoolShape, SlotState, pages_for};

    fn state(lengths: &[u32]) -> SlotState {
        let full = |length: &&u32| length.is_multiple_of(PAGE_ENTRIES as u32);
        SlotState { wanted: lengths.iter().filter(full).count(), ..SlotState::default() }
    }

    proptest! {
        #[test]
        fn what_is_known_of_a_slot_bounds_the_pages_of_its_next_tokens(
            lengths in prop::collection::vec(0u32..200, 0..40),
            tokens in 0usize..300,
        ) {
            let (state, lanes) = (state(&lengths), lengths.len());
            prop_assert!(pages_for(&lengths, tokens) <= state.most_pages(lanes, tokens));
            prop_assert_eq!(pages_for(&lengths, 1), state.most_pages(lanes, 1));
            let empty = SlotState::empty(lanes);
            prop_assert_eq!(pages_for(&vec![0; lanes], tokens), empty.most_pages(lanes, tokens));
        }

        #[test]
        fn a_pool_is_the_largest_that_fits_with_all_that_comes_with_it(
            page_bytes in 384usize..100_000,
            lanes in 1usize..3000,
            max_positions in 1usize..200_000,
            deaths in any::<bool>(),
            available in 0usize..1 << 32,
            limit in prop::option::of(0usize..1 << 32),
        ) {
            let shape = PoolShape { page_bytes, lanes, max_positions, deaths };
            let pages = shape.pages(available, limit);
            prop_assert!(pages == 0 || shape.bytes(pages) <= available);
            prop_assert!(pages * page_bytes <= limit.unwrap_or(usize::MAX));
            let more = pages + 1;
            let refused = shape.bytes(more) > available
                || limit.is_some_and(|limit| more * page_bytes > limit)
                || more > lanes * (max_positions.div_ceil(PAGE_ENTRIES) + 1);
            prop_assert!(refused, "{more} pages would do as well");
        }
    }
}
