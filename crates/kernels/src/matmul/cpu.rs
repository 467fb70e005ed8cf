//! How a product is cut into tasks, and what a task does.
//!
//! One design for every t: a task owns a range of panels and a range of row tiles. With one row it streams its panels
//! once, front to back, as fast as memory gives them. A few rows do the same: their tiles take turns at a stretch of a panel while
//! L1 has it. With many, a block of x stays in L2 while the panels pass by, and each tile's sums stay in registers for the whole
//! block of inputs.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::packed::{PANEL, PackedMatrix};
use super::rows::{LINE, Rows, Tiles};
use super::{Epilogue, tile};
use crate::activation::gelu::{gelu_erf, gelu_tanh};
use crate::chunks::Pieces;
use crate::simd::{Element, Isa, Kernel, Simd};
use crate::{Elements, Team};

/// Inputs that are multiplied in one go when there are many rows: 768 inputs of a panel are 96 KB of f32, of 170
/// rows 512 KB, and both stay in a 1 MB L2. Blocks that fit L1 (192 to 384) lost a tenth to reloading the sums.
const INPUT_BLOCK: usize = 768;
/// Bytes of x that a task keeps in L2.
const ROW_BLOCK_BYTES: usize = 512 << 10;
/// Rows that count as few.
const FEW_ROWS: usize = 28;
/// Inputs of a stretch of a panel: 16 KB of f32, half of L1.
const STRETCH: usize = 128;
/// Tasks per thread: enough that a thread that lost its core for a while does not hold up the rest.
const TASKS_PER_THREAD: usize = 8;
/// Multiply-adds below which a task is not worth handing out: about ten microseconds of one row's streaming.
const TASK_WORK: usize = 1 << 15;

/// The shape of one product and its cut into tasks.
#[derive(Debug, Clone, Copy)]
struct Plan {
    tiles: Tiles,
    inputs: usize,
    input_block: usize,
    panels: usize,
    tiles_per_task: usize,
    panels_per_task: usize,
}

impl Plan {
    fn new(isa: Isa, threads: usize, rows: usize, w: &PackedMatrix) -> Self {
        let (inputs, panels) = (w.inputs(), w.outputs().div_ceil(PANEL));
        let tiles = Tiles::new(rows, isa.tile_rows());
        // Few rows take a panel through the registers at once; many would push x and the panel out of L2.
        let blocked = rows > FEW_ROWS
            && inputs > INPUT_BLOCK * 4 / 3
            && rows * inputs * size_of::<f32>() > ROW_BLOCK_BYTES / 2;
        let input_block = if blocked {
            inputs.div_ceil(inputs.div_ceil(INPUT_BLOCK)).next_multiple_of(LINE)
        } else {
            inputs
        };
        let rows_in_cache = ROW_BLOCK_BYTES / (input_block * size_of::<f32>());
        let largest = (rows_in_cache / isa.tile_rows()).clamp(1, tiles.count);
        let mut tiles_per_task = tiles.count.div_ceil(tiles.count.div_ceil(largest));
        let mut panels_per_task = panels;
        let tasks = |tiles_each: usize, panels_each: usize| {
            tiles.count.div_ceil(tiles_each) * panels.div_ceil(panels_each)
        };
        if threads > 1 {
            while tasks(tiles_per_task, panels_per_task) < threads * TASKS_PER_THREAD {
                let work = tiles_per_task * rows.div_ceil(tiles.count) * panels_per_task * PANEL * inputs;
                if work < 2 * TASK_WORK {
                    break;
                }
                // A tile of rows is packed already, but each task of a panel reads the panel anew: few rows, from memory.
                let whole = panels_per_task >= 8 || tiles_per_task == 1 || rows <= FEW_ROWS;
                if panels_per_task > 1 && whole {
                    panels_per_task = panels_per_task.div_ceil(2);
                } else if tiles_per_task > 1 {
                    tiles_per_task = tiles_per_task.div_ceil(2);
                } else {
                    break;
                }
            }
        }
        Self { tiles, inputs, input_block, panels, tiles_per_task, panels_per_task }
    }

    fn panel_tasks(&self) -> usize {
        self.panels.div_ceil(self.panels_per_task)
    }

    fn tasks(&self) -> usize {
        self.tiles.count.div_ceil(self.tiles_per_task) * self.panel_tasks()
    }

    /// The tiles and panels of a task; neighbouring tasks take neighbouring panels of the same rows.
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let tile = task / self.panel_tasks() * self.tiles_per_task;
        let panel = task % self.panel_tasks() * self.panels_per_task;
        let tiles = tile..(tile + self.tiles_per_task).min(self.tiles.count);
        (tiles, panel..(panel + self.panels_per_task).min(self.panels))
    }
}

/// The product of checked operands with at least one row.
pub(super) fn matmul(
    team: &Team,
    isa: Isa,
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let rows = out.len() / w.outputs();
    let plan = Plan::new(isa, team.threads(), rows, w);
    let x = Rows::new(team, x, w.inputs(), plan.tiles);
    // Sums between blocks of inputs, [panels][rows][32]: not in `out`, which may hold a residual.
    let mut sums: Vec<f32> = Vec::new();
    if plan.input_block < plan.inputs {
        sums.reserve_exact(plan.panels * rows * PANEL);
    }
    let (out, sums) = (Pieces::new(out), Pieces::new(sums.spare_capacity_mut()));
    team.run(plan.tasks(), &|task| {
        let (tiles, panels) = plan.task(task);
        isa.run(Task { plan, tiles, panels, x: &x, w, bias, epilogue, rows, out: &out, sums: &sums });
    });
}

struct Task<'a> {
    plan: Plan,
    tiles: Range<usize>,
    panels: Range<usize>,
    x: &'a Rows<'a>,
    w: &'a PackedMatrix,
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    rows: usize,
    /// `[rows, outputs]`; this task's tiles of it.
    out: &'a Pieces<'a, f32>,
    /// `[panels][rows][32]` when the inputs are cut into blocks, else nothing.
    sums: &'a Pieces<'a, MaybeUninit<f32>>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.w.data().elements() {
            Elements::F32(weights) => self.multiply(simd, weights),
            Elements::F16(weights) => self.multiply(simd, weights),
            Elements::Bf16(weights) => self.multiply(simd, weights),
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn multiply<S: Simd, W: Element>(&self, simd: S, weights: &[W]) {
        if (2..=FEW_ROWS).contains(&self.rows) {
            self.multiply_few(simd, weights);
        } else {
            self.multiply_many(simd, weights);
        }
    }

    #[inline(always)]
    fn multiply_few<S: Simd, W: Element>(&self, simd: S, weights: &[W]) {
        let inputs = self.plan.inputs;
        let mut sums = [const { MaybeUninit::<f32>::uninit() }; FEW_ROWS * PANEL];
        for panel in self.panels.clone() {
            for first in (0..inputs).step_by(STRETCH) {
                let last = inputs.min(first + STRETCH);
                let weights = &weights[(panel * inputs + first) * PANEL..(panel * inputs + last) * PANEL];
                for tile in self.tiles.clone() {
                    let rows = self.plan.tiles.rows(tile);
                    let sums = &mut sums[rows.start * PANEL..rows.end * PANEL];
                    // SAFETY: the sums are those of all rows.
                    unsafe { self.accumulate(simd, tile, weights, first..last, sums) };
                }
            }
            for tile in self.tiles.clone() {
                let rows = self.plan.tiles.rows(tile);
                // SAFETY: all of [rows][32] was written.
                let sums = unsafe { sums[rows.start * PANEL..rows.end * PANEL].assume_init_ref() };
                self.finish(simd, panel, rows, sums);
            }
        }
    }

    /// Adds the products of a tile and a panel's inputs, or starts with the first of them.
    ///
    /// # Safety
    /// `sums` are `[rows of the tile][32]`, written before unless the inputs are the first.
    #[inline(always)]
    unsafe fn accumulate<S: Simd, W: Element>(
        &self,
        simd: S,
        tile: usize,
        weights: &[W],
        inputs: Range<usize>,
        sums: &mut [MaybeUninit<f32>],
    ) {
        let (rows, x) = (self.plan.tiles.rows(tile).len(), self.x.tile(tile, inputs.start));
        debug_assert!(sums.len() == rows * PANEL && weights.len() == inputs.len() * PANEL);
        debug_assert!(x.len() + rows * LINE > inputs.len() * rows, "the tile's lines");
        // SAFETY: the tile has at most TILE_ROWS rows; `x` holds its lines from the first input and the slice of weights
        // [inputs][32]; the caller promises the sums.
        unsafe {
            let (x, weights, to) = (x.as_ptr(), weights.as_ptr(), sums.as_mut_ptr().cast());
            tile::accumulate::<S, W, LINE>(simd, rows, x, weights, inputs.len(), to, inputs.start == 0);
        }
    }

    #[inline(always)]
    fn multiply_many<S: Simd, W: Element>(&self, simd: S, weights: &[W]) {
        let inputs = self.plan.inputs;
        let mut local = [const { MaybeUninit::<f32>::uninit() }; MAX_TILE];
        for first in (0..inputs).step_by(self.plan.input_block) {
            let last = inputs.min(first + self.plan.input_block);
            for panel in self.panels.clone() {
                let weights = &weights[(panel * inputs + first) * PANEL..(panel * inputs + last) * PANEL];
                for tile in self.tiles.clone() {
                    let rows = self.plan.tiles.rows(tile);
                    let sums = if self.plan.input_block < inputs {
                        let at = (panel * self.rows + rows.start) * PANEL;
                        // SAFETY: no other task has this panel and these rows.
                        unsafe { self.sums.range(at, rows.len() * PANEL) }
                    } else {
                        &mut local[..rows.len() * PANEL]
                    };
                    // SAFETY: the sums have room for [rows][32] of this task's own, written by the first block before another reads it.
                    unsafe { self.accumulate(simd, tile, weights, first..last, sums) };
                    if last == inputs {
                        // SAFETY: all of [rows][32] was just written.
                        let sums = unsafe { sums.assume_init_ref() };
                        self.finish(simd, panel, rows, sums);
                    }
                }
            }
        }
    }

    /// Adds the bias, applies the epilogue and writes, in this order for every element.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, panel: usize, rows: Range<usize>, sums: &[f32]) {
        let outputs = self.w.outputs();
        let first = panel * PANEL;
        let width = PANEL.min(outputs - first);
        let bias = self.bias.map(|bias| &bias[first..first + width]);
        for (row, sums) in rows.zip(sums.as_chunks::<PANEL>().0) {
            // SAFETY: no other task has this row and panel.
            let out = unsafe { self.out.range(row * outputs + first, width) };
            finish(simd, sums, bias, self.epilogue, out);
        }
    }
}

/// What becomes of a row's sums over one panel; `bias` and `out` are those of the panel's outputs.
#[inline(always)]
pub(super) fn finish<S: Simd>(
    simd: S,
    sums: &[f32; PANEL],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    for column in (0..out.len()).step_by(S::LANES) {
        let out = &mut out[column..];
        let mut y = simd.read(&sums[column..]);
        if let Some(bias) = bias {
            y = simd.add(y, read_up_to(simd, &bias[column..]));
        }
        y = match epilogue {
            Epilogue::Store => y,
            Epilogue::Add => simd.add(read_up_to(simd, out), y),
            Epilogue::GeluTanh => gelu_tanh(simd, y),
            Epilogue::Gelu => gelu_erf(simd, y),
        };
        if out.len() >= S::LANES {
            simd.write(out, y);
        } else {
            simd.write_partial(out, y);
        }
    }
}

/// Elements of the largest tile of any instruction set.
pub(super) const MAX_TILE: usize = 14 * PANEL;

#[inline(always)]
fn read_up_to<S: Simd>(simd: S, from: &[f32]) -> S::V {
    if from.len() >= S::LANES { simd.read(from) } else { simd.read_partial(from, 0.0) }
}
