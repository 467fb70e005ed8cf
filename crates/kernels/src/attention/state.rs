//! What rows have gathered so far: the online softmax.
//!
//! Source: Milakov and Gimelshein 2018, arXiv 1805.02867; merging splits as in Flash-Decoding (Dao et al. 2023).

use super::tiles::{Tile, Tiles};

/// Per row the running maximum m of the scores, the sum of `e^(score - m)`, and the values weighted likewise.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Tiles' padded rows; a unit's row r is at `places[r]`.
    places: Vec<usize>,
    head_dim: usize,
    pub(super) stride: usize,
    pub(super) maxima: Vec<f32>,
    pub(super) sums: Vec<f32>,
    /// `[padded][stride]`
    pub(super) mixed: Vec<f32>,
}

/// Value rows are padded to whole vectors of every instruction set.
const COLUMNS: usize = crate::simd::MAX_LANES;

impl State {
    /// Rows that have seen nothing.
    pub(super) fn new(tiles: &Tiles) -> Self {
        let stride = tiles.head_dim.next_multiple_of(COLUMNS);
        let padded = tiles.padded();
        Self {
            places: tiles.tiles.iter().flat_map(|tile| tile.at..tile.at + tile.rows).collect(),
            head_dim: tiles.head_dim,
            stride,
            maxima: vec![f32::NEG_INFINITY; padded],
            sums: vec![0.0; padded],
            mixed: vec![0.0; padded * stride],
        }
    }

    /// The tile's rows of `mixed`.
    pub(super) fn mixed_of(&mut self, tile: &Tile) -> &mut [f32] {
        &mut self.mixed[tile.at * self.stride..][..tile.padded * self.stride]
    }

    /// Adds what the same rows gathered from the next split. Rows that saw nothing there keep every bit, and rows
    /// that had seen nothing take over every bit.
    pub(super) fn fold(&mut self, next: &State) {
        for row in 0..self.maxima.len() {
            let range = row * self.stride..(row + 1) * self.stride;
            if next.sums[row] == 0.0 {
                continue;
            }
            if self.sums[row] == 0.0 {
                self.maxima[row] = next.maxima[row];
                self.sums[row] = next.sums[row];
                self.mixed[range.clone()].copy_from_slice(&next.mixed[range]);
                continue;
            }
            let maximum = self.maxima[row].max(next.maxima[row]);
            let (old, new) = ((self.maxima[row] - maximum).exp(), (next.maxima[row] - maximum).exp());
            self.maxima[row] = maximum;
            self.sums[row] = self.sums[row] * old + next.sums[row] * new;
            for (mixed, &more) in self.mixed[range.clone()].iter_mut().zip(&next.mixed[range]) {
                *mixed = *mixed * old + more * new;
            }
        }
    }

    /// Writes row `row` of the unit, zeros if it saw nothing.
    pub(super) fn write(&self, row: usize, out: &mut [f32]) {
        let place = self.places[row];
        let sum = self.sums[place];
        if sum == 0.0 {
            out.fill(0.0);
            return;
        }
        let mixed = &self.mixed[place * self.stride..][..self.head_dim];
        let inverse = 1.0 / sum;
        // A weight of 0 times a negative value may have turned -0 into 0 on the way; adding 0 makes both one.
        out.iter_mut().zip(mixed).for_each(|(out, &mixed)| *out = mixed * inverse + 0.0);
    }
}
