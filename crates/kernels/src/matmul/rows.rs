//! The rows of x as register tiles read them.

use std::ops::Range;

use crate::Team;
use crate::chunks::Pieces;

/// Inputs of a block: one cache line of a row.
pub(super) const LINE: usize = 16;

/// Elements below which packing on other threads costs more than it saves.
const ALONE: usize = 1 << 15;

/// The cut of t rows into tiles that differ by at most one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tiles {
    rows: usize,
    pub(super) count: usize,
}

impl Tiles {
    /// As few tiles as `largest` rows a tile allow.
    pub(super) fn new(rows: usize, largest: usize) -> Self {
        Self { rows, count: rows.div_ceil(largest) }
    }

    /// The rows of a tile.
    pub(super) fn rows(&self, tile: usize) -> Range<usize> {
        tile * self.rows / self.count..(tile + 1) * self.rows / self.count
    }
}

/// Sixteen inputs of a row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; LINE]);

/// x, with each tile's lines of the same inputs side by side: `[tile][inputs / 16][row of the tile][16]`.
///
/// Read in place, rows whose distance is a large power of two would evict each other from L1 (hidden sizes are such
/// numbers); here a tile is one sequential stream. A single row is already in this order, so it is not copied.
pub(super) struct Rows<'a> {
    given: &'a [f32],
    packed: Vec<Line>,
    lines: usize,
    tiles: Tiles,
}

impl<'a> Rows<'a> {
    /// Packs `x`, of `inputs` columns.
    pub(super) fn new(team: &Team, x: &'a [f32], inputs: usize, tiles: Tiles) -> Self {
        let lines = inputs.div_ceil(LINE);
        let mut rows = Self { given: x, packed: Vec::new(), lines, tiles };
        if tiles.rows <= 1 {
            return rows;
        }
        rows.packed.reserve_exact(tiles.rows * lines);
        let all = Pieces::new(&mut rows.packed.spare_capacity_mut()[..tiles.rows * lines]);
        let pack = |tile: usize| {
            let range = tiles.rows(tile);
            let height = range.len();
            // SAFETY: tiles do not overlap, and each is packed once.
            let packed = unsafe { all.range(range.start * lines, height * lines) };
            for (i, row) in range.enumerate() {
                let (whole, rest) = x[row * inputs..(row + 1) * inputs].as_chunks::<LINE>();
                let mut tail = [0.0; LINE];
                tail[..rest.len()].copy_from_slice(rest);
                let tail = (!rest.is_empty()).then_some(&tail);
                for (line, from) in whole.iter().chain(tail).enumerate() {
                    packed[line * height + i].write(Line(*from));
                }
            }
        };
        if tiles.rows * inputs < ALONE {
            (0..tiles.count).for_each(pack);
        } else {
            team.run(tiles.count, &pack);
        }
        // SAFETY: the tiles cover all rows, and each row wrote all of its lines.
        unsafe { rows.packed.set_len(tiles.rows * lines) };
        rows
    }

    /// The tile's lines from input `first` on, a multiple of 16. A last line may be short when there is one row.
    pub(super) fn tile(&self, tile: usize, first: usize) -> &[f32] {
        debug_assert!(first.is_multiple_of(LINE), "blocks start at a line");
        if self.tiles.rows <= 1 {
            return &self.given[first..];
        }
        let range = self.tiles.rows(tile);
        let lines =
            &self.packed[range.start * self.lines + first / LINE * range.len()..range.end * self.lines];
        // SAFETY: a Line is 16 f32 without padding.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE) }
    }
}
