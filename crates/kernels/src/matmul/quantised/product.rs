//! How a product is cut into tasks, and what a task does.

use std::ops::Range;

use half::f16;

use super::activations::{RowBlock, Rows, TILE};
use super::{BLOCK, BlockFormat, QuantisedMatrix};
use crate::Team;
use crate::chunks::Pieces;
use crate::matmul::{Epilogue, PANEL, cpu};
use crate::simd::{Fours, Held, Isa, Kernel, Simd};

/// Tiles of rows of a task: their blocks stay in L2 while the panels pass by.
const TILES_PER_TASK: usize = 8;
/// Tasks per thread, see the product of plain weights.
const TASKS_PER_THREAD: usize = 8;
/// Bytes that weights are asked for ahead of their use, see the product of plain weights.
const AHEAD: usize = 4096;
/// Bytes of the numbers of four inputs of a panel.
const GROUP: usize = 4 * PANEL;

/// The product of checked operands with at least one row.
pub(super) fn multiply(
    team: &Team,
    isa: Isa,
    x: &[f32],
    w: &QuantisedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let x = Rows::new(team, isa, x, w.inputs());
    let panels = w.outputs().div_ceil(PANEL);
    let tiles = x.rows.div_ceil(TILE);
    let groups = tiles.div_ceil(TILES_PER_TASK);
    // Parts that differ by at most one panel: whole ones of two panels would leave a thread idle for a tenth of a small product.
    let parts = panels.min(team.threads() * TASKS_PER_THREAD);
    let out = Pieces::new(out);
    team.run(groups * parts, &|task| {
        let (group, part) = (task / parts, task % parts);
        let panels = part * panels / parts..(part + 1) * panels / parts;
        let tiles = group * TILES_PER_TASK..tiles.min((group + 1) * TILES_PER_TASK);
        isa.run_bytes(Task { panels, tiles, x: &x, w, bias, epilogue, out: &out });
    });
}

struct Task<'a> {
    panels: Range<usize>,
    tiles: Range<usize>,
    x: &'a Rows,
    w: &'a QuantisedMatrix,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    /// `[rows, outputs]`; this task's panels and rows of it.
    out: &'a Pieces<'a, f32>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.w.format() {
            BlockFormat::Q8_0 => self.multiply::<S, Q8_0>(simd),
            BlockFormat::Q4_0 => self.multiply::<S, Q4_0>(simd),
            BlockFormat::Q4_1 => self.multiply::<S, Q4_1>(simd),
        }
    }
}

/// A format as constants.
trait Format {
    const FORMAT: BlockFormat;
    /// Whether numbers are halves of bytes.
    const NIBBLES: bool;
    /// What is taken from every number.
    const ZERO: f32;
}

struct Q8_0;
struct Q4_0;
struct Q4_1;

impl Format for Q8_0 {
    const FORMAT: BlockFormat = BlockFormat::Q8_0;
    const NIBBLES: bool = false;
    const ZERO: f32 = 0.0;
}
impl Format for Q4_0 {
    const FORMAT: BlockFormat = BlockFormat::Q4_0;
    const NIBBLES: bool = true;
    const ZERO: f32 = 8.0;
}
impl Format for Q4_1 {
    const FORMAT: BlockFormat = BlockFormat::Q4_1;
    const NIBBLES: bool = true;
    const ZERO: f32 = 0.0;
}

impl Task<'_> {
    #[inline(always)]
    fn multiply<S: Simd, F: Format>(&self, simd: S) {
        let blocks = self.w.inputs() / BLOCK;
        let size = const { PANEL * block_bytes::<F>() };
        for panel in self.panels.clone() {
            let weights = &self.w.panels()[panel * blocks * size..(panel + 1) * blocks * size];
            for tile in self.tiles.clone() {
                let rows = self.x.of(tile);
                let mut sums = [[0f32; PANEL]; TILE];
                let blocks = self.x.tile(tile).chunks_exact(rows.len());
                for (weights, x) in weights.chunks_exact(size).zip(blocks) {
                    // Only the first rows meet weights that no cache has.
                    if tile == self.tiles.start {
                        for line in 0..size / 64 {
                            simd.prefetch(weights.as_ptr().wrapping_add(AHEAD + 64 * line));
                        }
                    }
                    if let [x] = x {
                        // What all columns are multiplied with stays in registers.
                        let held = Held::new(simd, &x.fours);
                        for column in (0..PANEL).step_by(S::LANES) {
                            let columns = columns::<S, F>(simd, weights, column);
                            add_block::<S, F>(simd, x, &held, &columns, &mut sums[0][column..]);
                        }
                        continue;
                    }
                    for column in (0..PANEL).step_by(S::LANES) {
                        let columns = columns::<S, F>(simd, weights, column);
                        // In pairs: what a loop costs is a tenth of such a row's work. Bytes fill the registers alone.
                        let (pairs, rest) = if F::NIBBLES { x.as_chunks::<2>() } else { (&[][..], x) };
                        for (x, sums) in pairs.iter().zip(sums.as_chunks_mut::<2>().0) {
                            for (x, sums) in x.iter().zip(sums) {
                                add_block::<S, F>(simd, x, &x.fours, &columns, &mut sums[column..]);
                            }
                        }
                        for (x, sums) in rest.iter().zip(&mut sums[2 * pairs.len()..]) {
                            add_block::<S, F>(simd, x, &x.fours, &columns, &mut sums[column..]);
                        }
                    }
                }
                self.finish(simd, panel, rows, &sums);
            }
        }
    }

    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, panel: usize, rows: Range<usize>, sums: &[[f32; PANEL]; TILE]) {
        let (outputs, first) = (self.w.outputs(), panel * PANEL);
        let width = PANEL.min(outputs - first);
        let bias = self.bias.map(|bias| &bias[first..first + width]);
        for (row, sums) in rows.zip(sums) {
            // SAFETY: no other task has this panel and these rows.
            let out = unsafe { self.out.range(row * outputs + first, width) };
            cpu::finish(simd, sums, bias, self.epilogue, out);
        }
    }
}

const fn block_bytes<F: Format>() -> usize {
    match F::FORMAT {
        BlockFormat::Q8_0 => 34,
        BlockFormat::Q4_0 => 18,
        BlockFormat::Q4_1 => 20,
    }
}

/// Some outputs of a panel's block, as many as there are lanes.
struct Outputs<S: Simd> {
    scale: S::V,
    least: S::V,
    numbers: [S::Bytes; 8],
}

/// The outputs of a panel's block from one on.
#[inline(always)]
fn columns<S: Simd, F: Format>(simd: S, block: &[u8], column: usize) -> Outputs<S> {
    let head = if matches!(F::FORMAT, BlockFormat::Q4_1) { 4 * PANEL } else { 2 * PANEL };
    let numbers = &block[head + 4 * column..];
    assert!(numbers.len() >= (if F::NIBBLES { 3 } else { 7 }) * GROUP + 4 * S::LANES, "a whole block");
    // SAFETY: the head has 32 halves of each kind, and the numbers were counted above.
    unsafe {
        let halves = block.as_ptr().cast::<f16>();
        let scale = simd.load_f16(halves.add(column));
        let least = if matches!(F::FORMAT, BlockFormat::Q4_1) {
            simd.load_f16(halves.add(PANEL + column))
        } else {
            simd.splat(0.0)
        };
        let group = |i: usize| simd.load_bytes(numbers.as_ptr().add(i * GROUP));
        let mut all = [simd.no_bytes(); 8];
        if F::NIBBLES {
            for i in 0..4 {
                (all[2 * i], all[2 * i + 1]) = simd.nibbles(group(i));
            }
        } else {
            for (i, bytes) in all.iter_mut().enumerate() {
                *bytes = group(i);
            }
        }
        Outputs { scale, least, numbers: all }
    }
}

/// `sums += scale * (x's scale) * (numbers . x's bytes) + least * (x's scale) * (x's sum)`; `bytes` are x's.
#[inline(always)]
fn add_block<S: Simd, F: Format>(
    simd: S,
    x: &RowBlock,
    bytes: &impl Fours<S>,
    outputs: &Outputs<S>,
    sums: &mut [f32],
) {
    let numbers = &outputs.numbers;
    let mut dot = if F::NIBBLES { simd.dot_nibbles(numbers, bytes) } else { simd.dot_bytes(numbers, bytes) };
    let zero = if F::NIBBLES { F::ZERO } else { F::ZERO + S::SIGN };
    if zero != 0.0 {
        // Whole numbers far below 2^24: exact.
        dot = simd.sub(dot, simd.splat(zero * x.sum));
    }
    let scale = simd.mul(outputs.scale, simd.splat(x.scale));
    let mut sum = simd.mul_add(scale, dot, simd.read(sums));
    if matches!(F::FORMAT, BlockFormat::Q4_1) {
        sum = simd.mul_add(outputs.least, simd.splat(x.scaled_sum), sum);
    }
    simd.write(sums, sum);
}
