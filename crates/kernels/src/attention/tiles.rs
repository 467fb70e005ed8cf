//! A unit's query rows, scaled and packed for the register tiles.

use super::AttentionShape;
use crate::panel::{MAX_TILE_ROWS, padded_rows, tile_rows};
use crate::simd::Isa;

/// Rows `first..first + rows` of a unit, padded with rows of zeros to a size that a kernel exists for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    pub(super) first: usize,
    pub(super) rows: usize,
    pub(super) padded: usize,
    /// Padded rows of the tiles before.
    pub(super) at: usize,
}

/// Row r of a unit is query `r / group` at member `r % group` of the KV head's query heads.
#[derive(Debug)]
pub(super) struct Tiles {
    pub(super) tiles: Vec<Tile>,
    pub(super) group: usize,
    pub(super) head_dim: usize,
    /// Per tile `[d][padded]`.
    packed: Vec<f32>,
}

impl Tiles {
    /// Packs `queries` rows of `query`, `stride` apart, of which the first `group * d` elements are the unit's.
    pub(super) fn pack(
        isa: Isa,
        group: usize,
        shape: &AttentionShape,
        queries: usize,
        query: &[f32],
        stride: usize,
    ) -> Self {
        let (d, rows, tile_rows) = (shape.head_dim, queries * group, tile_rows(isa));
        let mut tiles = Vec::with_capacity(rows.div_ceil(tile_rows));
        let mut at = 0;
        for first in (0..rows).step_by(tile_rows) {
            let count = tile_rows.min(rows - first);
            let padded = padded_rows(isa, count);
            tiles.push(Tile { first, rows: count, padded, at });
            at += padded;
        }
        let mut packed = vec![0.0; at * d];
        for tile in &tiles {
            let target = &mut packed[tile.at * d..][..tile.padded * d];
            let mut sources: [&[f32]; MAX_TILE_ROWS] = [&[]; MAX_TILE_ROWS];
            for (r, source) in sources[..tile.rows].iter_mut().enumerate() {
                let row = tile.first + r;
                *source = &query[row / group * stride + row % group * d..][..d];
            }
            for (k, line) in target.chunks_exact_mut(tile.padded).enumerate() {
                // Scaling d products here instead of every score costs no accuracy that f32 sums had.
                line.iter_mut()
                    .zip(&sources[..tile.rows])
                    .for_each(|(to, source)| *to = source[k] * shape.scale);
            }
        }
        Self { tiles, group, head_dim: d, packed }
    }

    /// The tile's rows `[d][padded]`.
    pub(super) fn rows(&self, tile: &Tile) -> &[f32] {
        &self.packed[tile.at * self.head_dim..][..tile.padded * self.head_dim]
    }

    /// All rows, padding included.
    pub(super) fn padded(&self) -> usize {
        self.tiles.last().map_or(0, |tile| tile.at + tile.padded)
    }
}
