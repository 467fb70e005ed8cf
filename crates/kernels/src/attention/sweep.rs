//! One unit's way over the pages of one split.

use super::mix::Mix;
use super::plan::SPLIT_PAGES;
use super::soften::{Sight, Soften};
use super::state::State;
use super::tiles::{Tile, Tiles};
use crate::panel::{Block, PageRows, Panel, PanelProducts};
use crate::simd::Isa;
use crate::{LaneView, PAGE_ENTRIES};

/// Pages of a block: one maximum, one rescaling and one pass over the values per 256 entries, whose scores for a
/// tile (12 KiB) stay in the first-level cache.
pub(super) const BLOCK_PAGES: usize = 8;

/// Entries of a block.
pub(super) const BLOCK: usize = BLOCK_PAGES * PAGE_ENTRIES;

/// A unit and the lane that it reads.
pub(super) struct Sweep<'a> {
    pub(super) isa: Isa,
    pub(super) lane: &'a LaneView<'a>,
    /// Head of the lane's layout.
    pub(super) head: usize,
    /// Position of the unit's first query.
    pub(super) first_position: u32,
    pub(super) tiles: &'a Tiles,
}

/// A page of a block, as the kernels read it.
struct Page<'a, F: PageRows> {
    keys: F::Keys<'a>,
    values: F::Values<'a>,
    sight: Sight<'a>,
}

impl Sweep<'_> {
    /// What the unit's rows gather from pages `split * SPLIT_PAGES..` of the lane.
    pub(super) fn split<F: PageRows>(&self, split: usize) -> State {
        let mut state = State::new(self.tiles);
        let mut scores =
            vec![0.0; self.tiles.tiles.iter().map(|tile| tile.padded).max().unwrap_or(0) * BLOCK];
        let first_page = split * SPLIT_PAGES;
        let last_page = self.lane.len().div_ceil(PAGE_ENTRIES).min(first_page + SPLIT_PAGES);
        for block in (first_page..last_page).step_by(BLOCK_PAGES) {
            let pages = block..last_page.min(block + BLOCK_PAGES);
            // Only a unit of one tile reads memory that is not in the cache yet.
            let after =
                if self.tiles.tiles.len() == 1 && pages.end < last_page { Some(pages.end) } else { None };
            let keys = |page: usize| F::keys(self.lane.layout, self.lane.pages[page], self.head);
            let ahead = after.and_then(keys).map_or(std::ptr::null(), Panel::start);
            let mut held = [const { None }; BLOCK_PAGES];
            held.iter_mut().zip(pages).for_each(|(held, page)| *held = self.page::<F>(page));
            for tile in &self.tiles.tiles {
                self.block(&held, ahead, tile, &mut scores, &mut state);
            }
        }
        state
    }

    /// One tile over one block.
    fn block<F: PageRows>(
        &self,
        pages: &[Option<Page<'_, F>>; BLOCK_PAGES],
        ahead: *const u8,
        tile: &Tile,
        scores: &mut [f32],
        state: &mut State,
    ) {
        let group = self.tiles.group;
        // Fit: check() bounded the item's last position.
        let query = self.first_position + (tile.first / group) as u32;
        let last = self.first_position + ((tile.first + tile.rows - 1) / group) as u32;
        let mut sights = [Sight::NOTHING; BLOCK_PAGES];
        // Filled from a page that is there: there is no empty panel of every format.
        let Some(any) = pages.iter().flatten().next() else { return };
        let (mut keys, mut values) = ([any.keys; BLOCK_PAGES], [any.values; BLOCK_PAGES]);
        let mut starts = [std::ptr::null(); BLOCK_PAGES];
        let mut seen = 0;
        for page in pages.iter().flatten().filter(|page| page.sight.may_be_seen(query, last)) {
            (sights[seen], keys[seen], values[seen]) = (page.sight, page.keys, page.values);
            starts[seen] = page.values.start();
            seen += 1;
        }
        if seen == 0 {
            return;
        }
        let count = tile.padded;
        self.isa.run(PanelProducts {
            rows: self.tiles.rows(tile),
            count,
            panels: &keys[..seen],
            ahead: &starts[..seen],
            products: scores,
            stride: BLOCK,
        });
        let mut corrections = [1.0; crate::simd::MAX_LANES];
        self.isa.run(Soften {
            scores,
            sights: &sights[..seen],
            query,
            group,
            offset: tile.first % group,
            maxima: &mut state.maxima[tile.at..][..tile.rows],
            sums: &mut state.sums[tile.at..][..tile.rows],
            corrections: &mut corrections,
        });
        let stride = state.stride;
        self.isa.run(Mix {
            weights: scores,
            count,
            values: &values[..seen],
            ahead,
            head_dim: self.tiles.head_dim,
            entries: sights.map(|sight| sight.entries()),
            corrections: &corrections,
            mixed: state.mixed_of(tile),
            stride,
        });
    }

    /// Page `index` of the lane; nothing only for pages of another format, which check() refused.
    fn page<F: PageRows>(&self, index: usize) -> Option<Page<'_, F>> {
        let (layout, page) = (self.lane.layout, self.lane.pages[index]);
        let entries = index * PAGE_ENTRIES..self.lane.len().min((index + 1) * PAGE_ENTRIES);
        let (positions, expires_at) = (&self.lane.positions[entries.clone()], &self.lane.expires_at[entries]);
        Some(Page {
            keys: F::keys(layout, page, self.head)?,
            values: F::values(layout, page, self.head)?,
            sight: Sight::new(self.isa, positions, expires_at),
        })
    }
}
