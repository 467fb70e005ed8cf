//! Rows of x as signed bytes.

use super::BLOCK;
use crate::Team;
use crate::chunks::Pieces;
use crate::simd::{Isa, Kernel, Simd};

/// Magnitudes below this are zero in a block: their scale would have no inverse.
const SMALLEST: f32 = 1e-30;

/// Adding this rounds a small number to a whole one, ties to even, and leaves it in the low bits.
const SHIFT: f32 = 12_582_912.0;

/// 32 inputs of one row: bytes in fours, as products take them, the scale, and scale times the bytes' sum.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowBlock {
    pub(super) fours: [[i8; 4]; BLOCK / 4],
    pub(super) scale: f32,
    /// The sum of the bytes.
    pub(super) sum: f32,
}

impl RowBlock {
    const ZERO: Self = Self { fours: [[0; 4]; BLOCK / 4], scale: 0.0, sum: 0.0 };

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
        block
    }
}

/// Elements below which other threads cost more than they save.
const ALONE: usize = 1 << 15;

/// All blocks of `x`, row by row; its rows are whole blocks.
pub(super) fn quantised(team: &Team, isa: Isa, x: &[f32], inputs: usize) -> Vec<RowBlock> {
    let (whole, _) = x.as_chunks::<BLOCK>();
    let mut blocks = vec![RowBlock::ZERO; whole.len()];
    if x.len() < ALONE {
        isa.run(Quantise { from: whole, to: &mut blocks });
    } else {
        let row = inputs / BLOCK;
        let pieces = Pieces::new(&mut blocks);
        team.run(whole.len() / row, &|at| {
            // SAFETY: each task has a row of its own.
            let to = unsafe { pieces.range(at * row, row) };
            isa.run(Quantise { from: &whole[at * row..(at + 1) * row], to });
        });
    }
    blocks
}

struct Quantise<'a> {
    from: &'a [[f32; BLOCK]],
    to: &'a mut [RowBlock],
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        for (from, to) in self.from.iter().zip(self.to) {
            *to = RowBlock::of(from);
        }
    }
}
