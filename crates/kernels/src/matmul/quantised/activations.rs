//! Rows of x as signed bytes.

use std::ops::Range;

use super::BLOCK;
use crate::Team;
use crate::chunks::Pieces;
use crate::simd::{Isa, Kernel, Simd};

/// Magnitudes below this are zero in a block: their scale would have no inverse.
const SMALLEST: f32 = 1e-30;

/// Adding this rounds a small number to a whole one, ties to even, and leaves it in the low bits.
const SHIFT: f32 = 12_582_912.0;

/// 32 inputs of one row: bytes in fours, as products take them, and numbers that a product reads into all lanes at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowBlock {
    pub(super) fours: [[i8; 4]; BLOCK / 4],
    pub(super) scale: f32,
    /// The sum of the bytes.
    pub(super) sum: f32,
    /// Scale times that sum.
    pub(super) scaled_sum: f32,
}

impl RowBlock {
    const ZERO: Self = Self { fours: [[0; 4]; BLOCK / 4], scale: 0.0, sum: 0.0, scaled_sum: 0.0 };

    /// What is not finite makes the scale a NaN, and so everything that the row is multiplied with.
    #[inline(always)]
    pub(super) fn of(numbers: &[f32; BLOCK]) -> Self {
        // The order of magnitudes is that of their bits.
        let largest = numbers.iter().fold(0, |largest, x| largest.max(x.to_bits() & 0x7fff_ffff));
        let largest = f32::from_bits(largest);
        if !largest.is_finite() {
            return Self { scale: f32::NAN, ..Self::ZERO };
        }
        if largest < SMALLEST {
            return Self::ZERO;
        }
        let by = 127.0 / largest;
        let mut block = Self { scale: largest / 127.0, ..Self::ZERO };
        let mut sum = 0i32;
        for (byte, number) in block.fours.as_flattened_mut().iter_mut().zip(numbers) {
            *byte = (number * by + SHIFT).to_bits() as i8;
            sum += i32::from(*byte);
        }
        block.sum = sum as f32;
        block.scaled_sum = block.scale * block.sum;
        block
    }
}

/// Elements below which other threads cost more than they save.
const ALONE: usize = 1 << 15;

/// Rows that pass over a panel together: their sums and a block of them stay in L1.
pub(super) const TILE: usize = 16;

/// The rows of x, with each tile's blocks of the same inputs side by side: `[tile][inputs / 32][row of the tile]`. Read in the order
/// of the rows, a product of many would follow 16 streams at once, and so run at half its speed.
pub(super) struct Rows {
    blocks: Vec<RowBlock>,
    pub(super) rows: usize,
    /// Blocks of a row.
    per_row: usize,
}

impl Rows {
    /// All rows of `x`, which are whole blocks.
    pub(super) fn new(team: &Team, isa: Isa, x: &[f32], inputs: usize) -> Self {
        let (whole, _) = x.as_chunks::<BLOCK>();
        let per_row = inputs / BLOCK;
        let rows = whole.len() / per_row;
        let mut blocks = vec![RowBlock::ZERO; whole.len()];
        let tiles = rows.div_ceil(TILE);
        let pieces = Pieces::new(&mut blocks);
        let quantise = |tile: usize| {
            let range = tile * TILE * per_row..rows.min((tile + 1) * TILE) * per_row;
            // SAFETY: each call has a tile of its own.
            let to = unsafe { pieces.range(range.start, range.len()) };
            isa.run(Quantise { from: &whole[range], to, per_row });
        };
        if x.len() < ALONE {
            (0..tiles).for_each(quantise);
        } else {
            team.run(tiles, &quantise);
        }
        Self { blocks, rows, per_row }
    }

    /// The rows of a tile, at most 16.
    pub(super) fn of(&self, tile: usize) -> Range<usize> {
        tile * TILE..self.rows.min((tile + 1) * TILE)
    }

    /// A tile's blocks, as many for each block of a row as the tile has rows.
    pub(super) fn tile(&self, tile: usize) -> &[RowBlock] {
        let rows = self.of(tile);
        &self.blocks[rows.start * self.per_row..rows.end * self.per_row]
    }
}

struct Quantise<'a> {
    /// `[row of the tile][inputs / 32]`
    from: &'a [[f32; BLOCK]],
    /// `[inputs / 32][row of the tile]`
    to: &'a mut [RowBlock],
    per_row: usize,
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let height = self.from.len() / self.per_row;
        for (row, from) in self.from.chunks_exact(self.per_row).enumerate() {
            for (from, to) in from.iter().zip(self.to[row..].iter_mut().step_by(height)) {
                *to = RowBlock::of(from);
            }
        }
    }
}
