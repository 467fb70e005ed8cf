//! The register tile: a few rows of x times one panel, over a run of inputs.

use super::packed::PANEL;
use crate::simd::{Element, Simd};

/// Bytes that weights are asked for ahead of their use. A single row from f32 weights on a Zen 5 core streamed 14 GB/s
/// without prefetching, 22 at 1 KB, 27 at 2 KB and 4 KB and 22 at 8 KB; 16-bit weights were best at 4 KB too.
const AHEAD: usize = 4096;

/// Adds `x W^T` over `inputs` inputs to `sums`, `[rows][32]`, or starts it when `fresh`.
///
/// Every element is one chain of fused multiply-adds in the order of the inputs, so neither the tile's shape nor
/// where the run of inputs was cut shows in the result.
///
/// # Safety
/// `rows` is 1 to `S::TILE_ROWS`. Readable: `x`, lines of LINE inputs `[inputs / LINE][rows][LINE]` (the last line only
/// up to its inputs), and `weights`, `[inputs][32]`. `sums` is writable, and readable unless `fresh`.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, W: Element, const LINE: usize>(
    simd: S,
    rows: usize,
    x: *const f32,
    weights: *const W,
    inputs: usize,
    sums: *mut f32,
    fresh: bool,
) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match rows {
                // SAFETY: the caller's promise; the guard leaves out tiles that this machine never asks for.
                $($rows if const { $rows <= S::TILE_ROWS } => unsafe {
                    panel::<S, W, LINE, $rows>(simd, x, weights, inputs, sums, fresh)
                },)*
                _ => debug_assert!(false, "no tile of {rows} rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// All 32 outputs, at once where the registers allow it.
///
/// # Safety
/// As [`accumulate`].
#[inline(always)]
unsafe fn panel<S: Simd, W: Element, const LINE: usize, const ROWS: usize>(
    simd: S,
    x: *const f32,
    weights: *const W,
    inputs: usize,
    sums: *mut f32,
    fresh: bool,
) {
    // SAFETY: the caller's promise; columns 0..32 and 0..16 plus 16..32 are the panel.
    unsafe {
        if S::LANES == 16 {
            columns::<S, W, LINE, ROWS, 2>(simd, x, weights, inputs, sums, fresh);
        } else if ROWS <= 2 {
            columns::<S, W, LINE, ROWS, 4>(simd, x, weights, inputs, sums, fresh);
        } else {
            columns::<S, W, LINE, ROWS, 2>(simd, x, weights, inputs, sums, fresh);
            columns::<S, W, LINE, ROWS, 2>(
                simd,
                x,
                weights.add(PANEL / 2),
                inputs,
                sums.add(PANEL / 2),
                fresh,
            );
        }
    }
}

/// # Safety
/// As [`accumulate`], for the first `VECTORS * LANES` columns.
#[inline(always)]
unsafe fn columns<S: Simd, W: Element, const LINE: usize, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    x: *const f32,
    weights: *const W,
    inputs: usize,
    sums: *mut f32,
    fresh: bool,
) {
    let mut tile = [[simd.splat(0.0); VECTORS]; ROWS];
    if !fresh {
        for (r, row) in tile.iter_mut().enumerate() {
            for (v, sum) in row.iter_mut().enumerate() {
                // SAFETY: inside [ROWS][32].
                *sum = unsafe { simd.load(sums.add(r * PANEL + v * S::LANES)) };
            }
        }
    }
    for first in (0..inputs).step_by(LINE) {
        for i in 0..LINE.min(inputs - first) {
            // SAFETY: input first + i < inputs is in both operands; its line of x is block first / LINE.
            let (x, weights) = unsafe { (x.add(first * ROWS + i), weights.add((first + i) * PANEL)) };
            let mut w = [simd.splat(0.0); VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                // SAFETY: the weights of one input are 32 elements.
                *w = unsafe { W::load(simd, weights.add(v * S::LANES)) };
            }
            for line in 0..size_of::<W>() * PANEL / 64 {
                simd.prefetch(weights.wrapping_byte_add(AHEAD + line * 64));
            }
            for (r, row) in tile.iter_mut().enumerate() {
                // SAFETY: line r of this block, at this input.
                let x = simd.splat(unsafe { *x.add(r * LINE) });
                for (sum, w) in row.iter_mut().zip(w) {
                    *sum = simd.mul_add(x, w, *sum);
                }
            }
        }
    }
    for (r, row) in tile.iter().enumerate() {
        for (v, sum) in row.iter().enumerate() {
            // SAFETY: inside [ROWS][32].
            unsafe { simd.store(sums.add(r * PANEL + v * S::LANES), *sum) };
        }
    }
}
