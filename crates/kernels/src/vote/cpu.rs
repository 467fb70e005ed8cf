//! The raw votes of tiles of queries against pages, and who is first.

use super::TASK_PAGES;
use crate::panel::{PageElement, PanelProducts, padded_rows, tile_rows};
use crate::simd::{Isa, Kernel, Simd};
use crate::{DType, LaneView, PAGE_ENTRIES};

/// Columns of the products of one task.
const STRIDE: usize = TASK_PAGES * PAGE_ENTRIES;

/// A job's query gates, packed for the register tiles.
pub(super) struct Gates {
    width: usize,
    tiles: Vec<Tile>,
    /// Per tile `[r][padded]`.
    packed: Vec<f32>,
}

/// Queries `first..first + rows`.
#[derive(Clone, Copy)]
struct Tile {
    first: usize,
    rows: usize,
    padded: usize,
    /// Padded rows of the tiles before.
    at: usize,
}

impl Gates {
    /// Packs rows `[queries, width]`.
    pub(super) fn pack(isa: Isa, gates: &[f32], width: usize) -> Self {
        let queries = gates.len() / width;
        let tile_rows = tile_rows(isa);
        let mut tiles = Vec::with_capacity(queries.div_ceil(tile_rows));
        let mut at = 0;
        for first in (0..queries).step_by(tile_rows) {
            let rows = tile_rows.min(queries - first);
            let padded = padded_rows(isa, rows);
            tiles.push(Tile { first, rows, padded, at });
            at += padded;
        }
        let mut packed = vec![0.0; at * width];
        for tile in &tiles {
            let target = &mut packed[tile.at * width..][..tile.padded * width];
            for (r, row) in gates[tile.first * width..].chunks_exact(width).take(tile.rows).enumerate() {
                row.iter().enumerate().for_each(|(k, &x)| target[k * tile.padded + r] = x);
            }
        }
        Self { width, tiles, packed }
    }
}

/// A job as its tasks read it.
#[derive(Clone, Copy)]
pub(super) struct Votes<'a> {
    pub(super) isa: Isa,
    pub(super) gates: &'a Gates,
    pub(super) first_position: u32,
    pub(super) lane: &'a LaneView<'a>,
    pub(super) channel: usize,
    pub(super) bias: f32,
}

impl Votes<'_> {
    /// Decides the entries from page `first_page` on, as many as `refused_by` holds.
    pub(super) fn collect(&self, first_page: usize, refused_by: &mut [u32]) {
        match self.lane.layout.side_dtype() {
            DType::F32 => self.pages::<f32>(first_page, refused_by),
            DType::F16 => self.pages::<half::f16>(first_page, refused_by),
            DType::Bf16 => self.pages::<half::bf16>(first_page, refused_by),
        }
    }

    fn pages<E: PageElement>(&self, first_page: usize, refused_by: &mut [u32]) {
        refused_by.fill(u32::MAX);
        let width = self.gates.width;
        let Some(offset) = self.lane.layout.side_offset(self.channel) else { return };
        let mut products =
            vec![0.0; self.gates.tiles.iter().map(|tile| tile.padded).max().unwrap_or(0) * STRIDE];
        for tile in &self.gates.tiles {
            // Fits: check() bounded the job's last position.
            let query = self.first_position + tile.first as u32;
            let mut panels: [&[E]; TASK_PAGES] = [&[]; TASK_PAGES];
            let mut places = [0; TASK_PAGES];
            let mut open = 0;
            for (i, piece) in refused_by.chunks(PAGE_ENTRIES).enumerate() {
                let (positions, expires_at) = self.lifetimes(first_page + i, piece.len());
                if !self.isa.run(Open { positions, expires_at, refused_by: piece, query, rows: tile.rows }) {
                    continue;
                }
                let Some(elements) = E::of(self.lane.pages[first_page + i]) else { continue };
                panels[open] = &elements[offset..][..width * PAGE_ENTRIES];
                places[open] = i;
                open += 1;
            }
            if open == 0 {
                continue;
            }
            self.isa.run(PanelProducts {
                rows: &self.gates.packed[tile.at * width..][..tile.padded * width],
                count: tile.padded,
                panels: &panels[..open],
                ahead: &[],
                products: &mut products,
                stride: STRIDE,
            });
            for (slot, &i) in places[..open].iter().enumerate() {
                let start = i * PAGE_ENTRIES;
                let end = refused_by.len().min(start + PAGE_ENTRIES);
                let (positions, expires_at) = self.lifetimes(first_page + i, end - start);
                self.isa.run(Refuse {
                    products: &products[slot * PAGE_ENTRIES..],
                    rows: tile.rows,
                    root: (width as f32).sqrt(),
                    bias: self.bias,
                    query,
                    positions,
                    expires_at,
                    refused_by: &mut refused_by[start..end],
                });
            }
        }
    }

    fn lifetimes(&self, page: usize, entries: usize) -> (&[u32], &[u32]) {
        let range = page * PAGE_ENTRIES..page * PAGE_ENTRIES + entries;
        (&self.lane.positions[range.clone()], &self.lane.expires_at[range])
    }
}

/// Whether a page has an entry that `rows` queries from `query` on may still be the first to refuse.
struct Open<'a> {
    positions: &'a [u32],
    expires_at: &'a [u32],
    refused_by: &'a [u32],
    query: u32,
    rows: usize,
}

impl Kernel for Open<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) -> bool {
        let last = self.query + (self.rows - 1) as u32;
        let mut open = false;
        for ((&position, &expires_at), &by) in self.positions.iter().zip(self.expires_at).zip(self.refused_by)
        {
            // Not `&&`: a branch per entry would keep the loop from becoming vector comparisons.
            open |= (by == u32::MAX) & (position < last) & (expires_at > self.query);
        }
        open
    }
}

/// Votes of a tile's queries on the entries of a page.
struct Refuse<'a> {
    /// Row r at `r * STRIDE`.
    products: &'a [f32],
    rows: usize,
    /// sqrt(r)
    root: f32,
    bias: f32,
    query: u32,
    positions: &'a [u32],
    expires_at: &'a [u32],
    refused_by: &'a mut [u32],
}

impl Kernel for Refuse<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for r in 0..self.rows {
            let query = self.query + r as u32;
            let row = &self.products[r * STRIDE..][..PAGE_ENTRIES];
            let lifetimes = self.positions.iter().zip(self.expires_at);
            for ((by, &product), (&position, &expires_at)) in
                self.refused_by.iter_mut().zip(row).zip(lifetimes)
            {
                let keep = product / self.root + self.bias > 0.0;
                let refuses = !keep & (position < query) & (query < expires_at);
                // Queries ascend, so the minimum is whoever came first.
                *by = (*by).min(if refuses { query } else { u32::MAX });
            }
        }
    }
}
