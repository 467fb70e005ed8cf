//! Products of tiles of 32 rows, the multiply-adds of every pass.

use super::plan::SIDE;
use crate::simd::{Isa, Kernel, Simd};

/// The left operand: element k of row r is at `r * row + k * step`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) row: usize,
    pub(super) step: usize,
}

/// What happens to what the output held before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    Store,
    Add,
}

/// `out[r][c] = sum over k < depth of left[r][k] * right[k][c]`, for 32 rows and `columns`, a multiple of 16.
///
/// One chain of multiply-adds per element, in the order of k. A call of its own rather than inlined into the passes: a
/// product is a microsecond, and a dozen copies for every instruction set took minutes to compile.
pub(super) fn product(
    isa: Isa,
    left: Left<'_>,
    (right, right_row): (&[f32], usize),
    depth: usize,
    columns: usize,
    into: Into,
    (out, out_row): (&mut [f32], usize),
) {
    if depth == 0 {
        return;
    }
    assert!(left.data.len() > (SIDE - 1) * left.row + (depth - 1) * left.step);
    assert!(right.len() >= (depth - 1) * right_row + columns);
    assert!(out.len() >= (SIDE - 1) * out_row + columns && columns.is_multiple_of(16));
    isa.run(Call {
        left: left.data.as_ptr(),
        row: left.row,
        step: left.step,
        right: right.as_ptr(),
        right_row,
        depth,
        columns,
        add: into == Into::Add,
        out: out.as_mut_ptr(),
        out_row,
    });
}

/// Made by [`product`] alone, which has checked that every access for columns below `columns` is inside the slices.
struct Call {
    left: *const f32,
    row: usize,
    step: usize,
    right: *const f32,
    right_row: usize,
    depth: usize,
    columns: usize,
    add: bool,
    out: *mut f32,
    out_row: usize,
}

impl Kernel for Call {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut column = 0;
        // SAFETY: `product` checked the operands for all columns, which come in multiples of 16.
        unsafe {
            if S::LANES == 16 {
                while column + 64 <= self.columns {
                    self.rows::<S, 4, 4>(simd, column);
                    column += 64;
                }
                while column + 32 <= self.columns {
                    self.rows::<S, 8, 2>(simd, column);
                    column += 32;
                }
                if column < self.columns {
                    self.rows::<S, 16, 1>(simd, column);
                }
            } else {
                while column < self.columns {
                    self.rows::<S, 4, 2>(simd, column);
                    column += 16;
                }
            }
        }
    }
}

impl Call {
    /// # Safety
    /// All 32 rows, `depth` and the C vectors from `column` are inside the operands.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize, const C: usize>(&self, simd: S, column: usize) {
        for first in (0..SIDE).step_by(R) {
            // SAFETY: R divides 32.
            unsafe { self.tile::<S, R, C>(simd, first, column) };
        }
    }

    /// # Safety
    /// As `rows`, for rows `first..first + R`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const C: usize>(&self, simd: S, first: usize, column: usize) {
        let mut sums = [[simd.splat(0.0); C]; R];
        let out = self.out.wrapping_add(first * self.out_row + column);
        if self.add {
            for r in 0..R {
                for c in 0..C {
                    // SAFETY: the caller's promise.
                    sums[r][c] = unsafe { simd.load(out.add(r * self.out_row + c * S::LANES)) };
                }
            }
        }
        let mut left = self.left.wrapping_add(first * self.row);
        let mut right = self.right.wrapping_add(column);
        for _ in 0..self.depth {
            let mut vectors = [simd.splat(0.0); C];
            for c in 0..C {
                // SAFETY: the caller's promise.
                vectors[c] = unsafe { simd.load(right.add(c * S::LANES)) };
            }
            for r in 0..R {
                // SAFETY: the caller's promise.
                let factor = simd.splat(unsafe { *left.add(r * self.row) });
                for c in 0..C {
                    sums[r][c] = simd.mul_add(factor, vectors[c], sums[r][c]);
                }
            }
            left = left.wrapping_add(self.step);
            right = right.wrapping_add(self.right_row);
        }
        for r in 0..R {
            for c in 0..C {
                // SAFETY: the caller's promise.
                unsafe { simd.store(out.add(r * self.out_row + c * S::LANES), sums[r][c]) };
            }
        }
    }
}
