//! Products over the rows of two matrices: the gradients of weights and biases.
//!
//! Every element of `out` gets one chain of f32 multiply-adds per block of rows, the blocks in ascending order, so
//! neither the tile that an element falls in nor the number of threads shows in the result.

#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

use super::cpu::MAX_TILE;
use super::packed::PANEL;
use super::rows::{LINE, Line, Tiles};
use super::tile;
use crate::chunks::Pieces;
use crate::error::{check_length, checked_size};
use crate::simd::{Isa, Kernel, Simd};
use crate::{KernelError, Team};

/// Rows that are multiplied in one go: a panel of them is 96 KB, so that eight panels stay in L2 while the tiles, 43 KB
/// each, pass by, and `out` is read and written once for so many multiply-adds.
const ROW_BLOCK: usize = 768;
/// Panels that a task multiplies a tile with: what L2 holds, and enough to pay for packing the tile.
const PANELS_PER_TASK: usize = 8;
/// Tasks per thread, as in the forward product.
const TASKS_PER_THREAD: usize = 8;
/// Columns that one task adds up: whole cache lines, and long enough runs of each row.
const SUM_COLUMNS: usize = 64;
/// Rows that are added up in f32 before the sum joins the total, so that the error does not grow with t.
const SUM_ROWS: usize = 256;

/// Columns `first..first + width` of a matrix whose rows have `stride` elements, `[t, stride]`.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// All rows.
    pub data: &'a [f32],
    /// Elements from a row to the next.
    pub stride: usize,
    /// The first column.
    pub first: usize,
    /// Number of columns.
    pub width: usize,
}

impl<'a> Columns<'a> {
    /// All `width` columns of `data`, `[t, width]`.
    pub fn all(data: &'a [f32], width: usize) -> Self {
        Self { data, stride: width, first: 0, width }
    }

    /// The number of rows. Errors: no whole rows, or columns past a row's end.
    fn rows(&self, op: &'static str) -> Result<usize, KernelError> {
        let rows = self.data.len().checked_div(self.stride).unwrap_or(0);
        check_length(op, "a matrix, in whole rows,", rows * self.stride, self.data.len())?;
        if self.first.checked_add(self.width).is_none_or(|end| end > self.stride) {
            return Err(KernelError::Invalid {
                op,
                expected: format!("columns that end inside a row of {} elements", self.stride),
                got: format!("{} columns from {}", self.width, self.first),
            });
        }
        Ok(rows)
    }

    /// `width` columns of a row from column `at`.
    #[inline(always)]
    fn run(&self, row: usize, at: usize, width: usize) -> &'a [f32] {
        &self.data[row * self.stride + self.first + at..][..width]
    }
}

/// Adds `a^T b` to `out`, `[a.width, b.width]`: with the gradient of a product's result and its input that is the
/// gradient of the weight, in either orientation.
///
/// Errors: `a` and `b` differ in rows, are not whole rows, or lack the columns; `out` has another length.
pub fn transposed_product(
    team: &Team,
    a: Columns<'_>,
    b: Columns<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    transposed_product_with(Isa::best(), team, a, b, out)
}

/// [`transposed_product`] with the given instruction set, or the portable one where the machine lacks it.
///
/// Errors: as [`transposed_product`].
pub fn transposed_product_with(
    isa: Isa,
    team: &Team,
    a: Columns<'_>,
    b: Columns<'_>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "transposed_product";
    let rows = a.rows(OP)?;
    check_length(OP, "b, in rows,", rows, b.rows(OP)?)?;
    check_length(OP, "out", checked_size(OP, &[a.width, b.width])?, out.len())?;
    if rows == 0 || out.is_empty() {
        return Ok(());
    }
    let tiles = Tiles::new(a.width, isa.tile_rows());
    let panels = b.width.div_ceil(PANEL);
    let groups = panels.div_ceil(PANELS_PER_TASK);
    let tiles_each = (tiles.count * groups).div_ceil(team.threads() * TASKS_PER_THREAD).max(1);
    let tile_tasks = tiles.count.div_ceil(tiles_each);
    let blocks = rows.div_ceil(ROW_BLOCK);
    let block = rows.div_ceil(blocks);
    let mut packed: Vec<Line> = Vec::new();
    packed.reserve_exact(panels * block * PANEL / LINE);
    let all = Pieces::new(out);
    for first in (0..rows).step_by(block) {
        let count = block.min(rows - first);
        let lines = count * PANEL / LINE;
        let pieces = Pieces::new(&mut packed.spare_capacity_mut()[..panels * lines]);
        team.run(panels, &|panel| {
            // SAFETY: each panel is packed once.
            let to = unsafe { pieces.range(panel * lines, lines) };
            pack_panel(b, panel * PANEL, first, to);
        });
        // SAFETY: each of the panels wrote all of its lines.
        unsafe { packed.set_len(panels * lines) };
        let weights: &[Line] = &packed;
        team.run(tile_tasks * groups, &|task| {
            let (tile_task, group) = (task / groups, task % groups);
            let from = group * PANELS_PER_TASK;
            let panels = from..(from + PANELS_PER_TASK).min(panels);
            for tile in tile_task * tiles_each..((tile_task + 1) * tiles_each).min(tiles.count) {
                let (rows, panels) = (tiles.rows(tile), panels.clone());
                isa.run(Task { a, rows, first, count, weights, panels, columns: b.width, out: &all });
            }
        });
        packed.clear();
    }
    Ok(())
}

/// Writes 32 columns, zeros past the last, of the rows from `first` on.
fn pack_panel(b: Columns<'_>, at: usize, first: usize, to: &mut [MaybeUninit<Line>]) {
    let width = PANEL.min(b.width - at);
    for (i, [low, high]) in to.as_chunks_mut::<{ PANEL / LINE }>().0.iter_mut().enumerate() {
        let from = b.run(first + i, at, width);
        if let Some((from, _)) = from.split_first_chunk::<PANEL>() {
            let (halves, _) = from.as_chunks::<LINE>();
            low.write(Line(halves[0]));
            high.write(Line(halves[1]));
        } else {
            let mut row = [0.0; PANEL];
            row[..width].copy_from_slice(from);
            let (halves, _) = row.as_chunks::<LINE>();
            low.write(Line(halves[0]));
            high.write(Line(halves[1]));
        }
    }
}

/// A tile of columns of `a` times some panels, over a block of rows.
struct Task<'a> {
    a: Columns<'a>,
    /// The columns of `a`: the tile's rows of `out`.
    rows: std::ops::Range<usize>,
    first: usize,
    count: usize,
    /// `[panels][count][32]`
    weights: &'a [Line],
    panels: std::ops::Range<usize>,
    /// Columns of `out`.
    columns: usize,
    out: &'a Pieces<'a, f32>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let height = self.rows.len();
        let mut tile = [const { MaybeUninit::<f32>::uninit() }; MAX_TILE / PANEL * ROW_BLOCK];
        for i in 0..self.count {
            let from = self.a.run(self.first + i, self.rows.start, height);
            tile[i * height..(i + 1) * height].write_copy_of_slice(from);
        }
        let mut sums = [0.0; MAX_TILE];
        for panel in self.panels.clone() {
            let weights = &self.weights[panel * self.count * PANEL / LINE..][..self.count * PANEL / LINE];
            // SAFETY: the tile has at most TILE_ROWS rows; `tile` holds [count][height], just written, the weights are
            // [count][32], and `sums` has room for [height][32].
            unsafe {
                let (x, weights) = (tile.as_ptr().cast::<f32>(), weights.as_ptr().cast::<f32>());
                let sums = sums.as_mut_ptr();
                tile::accumulate::<S, f32, 1>(simd, height, x, weights, self.count, sums, true);
            }
            let width = PANEL.min(self.columns - panel * PANEL);
            for (row, sums) in self.rows.clone().zip(sums.as_chunks::<PANEL>().0) {
                // SAFETY: no other task has this row and panel.
                let out = unsafe { self.out.range(row * self.columns + panel * PANEL, width) };
                if width == PANEL {
                    for at in (0..PANEL).step_by(S::LANES) {
                        let sum = simd.add(simd.read(&out[at..]), simd.read(&sums[at..]));
                        simd.write(&mut out[at..], sum);
                    }
                } else {
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
                }
            }
        }
    }
}

/// Adds the sum of the rows of `a`, column by column, to `out`, `[a.width]`: the gradient of a bias.
///
/// Errors: `a` is not whole rows or lacks the columns, or `out` has another length.
pub fn column_sums(team: &Team, a: Columns<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    const OP: &str = "column_sums";
    let rows = a.rows(OP)?;
    check_length(OP, "out", a.width, out.len())?;
    let pieces = Pieces::new(out);
    team.run(a.width.div_ceil(SUM_COLUMNS), &|task| {
        let at = task * SUM_COLUMNS;
        // SAFETY: each range of columns is one task's.
        let out = unsafe { pieces.range(at, SUM_COLUMNS) };
        Isa::best().run(Sums { a, rows, at, out });
    });
    Ok(())
}

struct Sums<'a> {
    a: Columns<'a>,
    rows: usize,
    at: usize,
    out: &'a mut [f32],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let width = self.out.len();
        for first in (0..self.rows).step_by(SUM_ROWS) {
            let mut sums = [0.0; SUM_COLUMNS];
            for row in first..self.rows.min(first + SUM_ROWS) {
                let from = self.a.run(row, self.at, width);
                // A known length becomes a few vector additions.
                if let Some((from, _)) = from.split_first_chunk::<SUM_COLUMNS>() {
                    sums.iter_mut().zip(from).for_each(|(sum, x)| *sum += x);
                } else {
                    sums.iter_mut().zip(from).for_each(|(sum, x)| *sum += x);
                }
            }
            self.out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        }
    }
}
