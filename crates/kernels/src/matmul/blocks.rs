//! Products with weights in blocks on the device: our kernel where a few rows share one reading of the weights, passes of it for
//! some more, and for many the weights as numbers, some outputs at a time, and the library.

use super::blocks_row::{self, RowArguments, RowProducts};
use super::checked::Checked;
use super::lt::{BlasLt, Operands, Shape};
use super::quantised::TILE_OUTPUTS;
use super::stream::{KEPT, Kind, Product};
use super::{BlockFormat, DeviceMatrix, InBlocks};
use crate::activation::{CODES, DeviceActivation};
use crate::cuda::{
    Argument, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};
use crate::error::checked_size;
use crate::{DType, KernelError};

pub(crate) const SOURCE: Source = Source {
    file: "matmul/blocks.cu",
    text: concat!(
        include_str!("../activation/gelu.cuh"),
        include_str!("ends.cuh"),
        include_str!("blocks.cuh"),
        include_str!("ring.cuh"),
        include_str!("blocks_mma.cuh"),
        include_str!("../cuda/signals.cuh"),
        include_str!("blocks.cu"),
        include_str!("blocks_row.cu")
    ),
    constants: |_, _| {
        let own = [
            ("BLOCK_THREADS", THREADS as usize),
            ("SUM_BYTES", SUMS),
            ("DEPTH", DEPTH),
            ("ROW_WARPS", blocks_row::WARPS),
            ("ROW_STEPS", blocks_row::MOST_STEPS),
            ("ROW_PANELS", blocks_row::PANELS),
            ("SLOT_Q8_0", slot(BlockFormat::Q8_0)),
            ("SLOT_Q4_0", slot(BlockFormat::Q4_0)),
            ("SLOT_Q4_1", slot(BlockFormat::Q4_1)),
        ];
        own.into_iter().chain(BlockFormat::CODES).chain(Kind::CODES).chain(CODES).collect()
    },
    arguments: &[Arguments::LAYOUT, RowArguments::LAYOUT, NumbersArguments::LAYOUT],
};

/// Rows that share one reading of the weights.
const ROWS: usize = 16;
/// Rows up to which the weights are read again for each 16: as numbers they would be written and read once more, at 16 bits.
const PASSED: usize = 64;
/// Bytes of weights as numbers at a time: as many as a product of many rows wants to be worth its start.
const SCRATCH: usize = 64 << 20;
const THREADS: u32 = 256;
const WARPS: usize = 8;
/// Sums of 8 rows of all warps, in bytes: 36 numbers from one row to the next.
const SUMS: usize = WARPS * 8 * 36 * 4;
/// Steps of a ring: what is on its way at once, some 70 to 80 KB.
const DEPTH: usize = 4;

/// Bytes of a warp's step in the ring: 4 vectors of numbers for each lane, and the heads that go with them.
pub(super) const fn slot(format: BlockFormat) -> usize {
    2048 + match format {
        BlockFormat::Q8_0 => 128,
        BlockFormat::Q4_0 => 256,
        BlockFormat::Q4_1 => 512,
    }
}

kernel_struct! {
    struct Arguments as Blocks {
        codes: u64,
        heads: u64,
        x: u64,
        bias: u64,
        out: u64,
        outputs: u32,
        inputs: u32,
        out_width: u32,
        pitch: u32,
        kind: u32,
        activation: u32,
        rows: u32,
    }
}

kernel_struct! {
    struct NumbersArguments as Numbers {
        codes: u64,
        heads: u64,
        to: u64,
        inputs: u32,
        first: u32,
        count: u32,
    }
}

/// The kernels for blocks of a device, and room for weights as numbers.
#[derive(Debug)]
pub(super) struct BlockProducts {
    row: RowProducts,
    /// By format; of up to 8 rows, and of more.
    functions: [[Function; 2]; 3],
    /// By format.
    numbers: [Function; 3],
    scratch: DeviceBuffer<u8>,
    multiprocessors: usize,
    /// The most shared memory of a block.
    shared: usize,
}

impl BlockProducts {
    /// For weights of up to `most` elements.
    pub(super) fn new(device: &Device, most: usize) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, &Specialisation::NEUTRAL)?;
        let facts = device.facts();
        let shared = facts.shared_memory as usize;
        let multiprocessors = facts.multiprocessors as usize;
        let load = |format: &str| -> Result<[Function; 2], KernelError> {
            let load = |rows: usize| {
                module.function(&format!("blocks_{format}_{rows}"), (shared - sums(rows)) as u32)
            };
            Ok([load(8)?, load(16)?])
        };
        Ok(Self {
            row: RowProducts::new(device, &module)?,
            functions: [load("q8_0")?, load("q4_0")?, load("q4_1")?],
            numbers: [
                module.function("numbers_q8_0", 0)?,
                module.function("numbers_q4_0", 0)?,
                module.function("numbers_q4_1", 0)?,
            ],
            scratch: DeviceBuffer::uninitialized(
                device,
                "weights as numbers",
                most.saturating_mul(2).min(SCRATCH),
            )?,
            multiprocessors,
            shared,
        })
    }

    /// Whether gates and ups can be outputs of one product, of that many rows.
    pub(super) fn gates(w: &DeviceMatrix, rows: usize) -> bool {
        rows <= PASSED && w.outputs().is_multiple_of(2 * TILE_OUTPUTS)
    }

    /// Whether a norm may be inside of a product of that many rows.
    pub(super) fn norms(&self, w: &DeviceMatrix, rows: usize) -> bool {
        w.in_blocks().is_some_and(|weight| self.row.fits(weight, rows, w.outputs(), w.inputs()))
    }

    /// Starts a product of any number of rows, or of one with a norm; `weight` is that of the product.
    pub(super) fn run(
        &self,
        product: &Checked<'_>,
        weight: InBlocks,
        library: &BlasLt,
        finish: &DeviceActivation,
    ) -> Result<(), KernelError> {
        let invalid =
            |expected: String, got: String| KernelError::Invalid { op: super::cuda::OP, expected, got };
        if product.is_gated() && !product.w.outputs().is_multiple_of(2 * TILE_OUTPUTS) {
            let got = format!("{} outputs", product.w.outputs());
            return Err(invalid(format!("gates and ups of whole {TILE_OUTPUTS}"), got));
        }
        let all = product.streamed();
        if self.row.fits(weight, all.rows, all.outputs, all.inputs) {
            // SAFETY: of a checked product, whose weight has these blocks.
            return unsafe { self.row.launch(&all, weight) };
        }
        if product.is_normed() {
            let got = format!("{} rows of {} inputs", product.rows, product.w.inputs());
            return Err(invalid("one row that fits shared memory for a norm inside".to_owned(), got));
        }
        if product.rows > PASSED && !product.is_gated() && self.multiply(product, weight, library, finish)? {
            return Ok(());
        }
        let width = if product.is_gated() { all.outputs / 2 } else { all.outputs };
        let out = if matches!(all.kind, Kind::Store | Kind::SiluMul) { 2 } else { 4 };
        for first in (0..all.rows).step_by(ROWS) {
            let part = Product {
                x: all.x + (first * all.inputs * 2) as u64,
                out: all.out + (first * width * out) as u64,
                rows: ROWS.min(all.rows - first),
                ..all
            };
            // SAFETY: rows of a checked product, whose weight has these blocks.
            unsafe { self.launch(&part, weight) }?;
        }
        Ok(())
    }

    /// One to 16 rows.
    ///
    /// # Safety
    /// What the product names is there, its weights those blocks.
    unsafe fn launch(&self, product: &Product, weight: InBlocks) -> Result<(), KernelError> {
        let InBlocks { format, codes, heads } = weight;
        let Product { rows, outputs, inputs, kind, .. } = *product;
        let width = if kind == Kind::SiluMul { outputs / 2 } else { outputs };
        let (span, step) = (if kind == Kind::SiluMul { 1 } else { 2 }, WARPS * slot(format));
        let panels = width.div_ceil(TILE_OUTPUTS);
        let blocks = panels.min(self.multiprocessors);
        let units = panels.div_ceil(blocks).div_ceil(span);
        let pitch = pitch(self.shared, DEPTH * step + sums(rows), rows, inputs, units);
        // As the other streams: no three share a multiprocessor.
        let least = if blocks == self.multiprocessors { (self.shared + KEPT) / 3 } else { 0 };
        let arguments = Arguments {
            codes,
            heads,
            x: product.x,
            bias: product.bias,
            out: product.out,
            outputs: outputs as u32,
            inputs: inputs as u32,
            out_width: width as u32,
            pitch: pitch as u32,
            kind: kind as u32,
            activation: product.activation,
            rows: rows as u32,
        };
        let bytes = (DEPTH * step + rows * pitch * 16).max(least);
        let function =
            self.functions[format.code() as usize][usize::from(rows > 8)].with_shared(bytes as u32);
        // SAFETY: the layout of `Blocks`; the caller's promise.
        unsafe { function.launch(Grid::new(blocks, THREADS).early(), &arguments) }?;
        Ok(())
    }

    /// As numbers, in the library; false where it has no algorithm, and then nothing was written.
    fn multiply(
        &self,
        product: &Checked<'_>,
        weight: InBlocks,
        library: &BlasLt,
        finish: &DeviceActivation,
    ) -> Result<bool, KernelError> {
        let (w, rows) = (product.w, product.rows);
        let (shape, operands) = product.for_library();
        let slice = self.scratch.len() / checked_size(super::cuda::OP, &[2, w.inputs()])? / TILE_OUTPUTS
            * TILE_OUTPUTS;
        if slice == 0 {
            return Ok(false);
        }
        let wide = shape.out == DType::F32;
        let element = if wide { 4 } else { 2 };
        let part = |first: usize| {
            // The bias and what comes after it are for all parts together.
            let shape = Shape { outputs: slice.min(w.outputs() - first), bias: false, gelu: false, ..shape };
            let out = operands.out + (first * element) as u64;
            (shape, Operands { weights: self.scratch.pointer(), bias: 0, out, ..operands })
        };
        // Of all parts only the last has another shape.
        for first in [0, (w.outputs() - 1) / slice * slice] {
            let (shape, operands) = part(first);
            if !library.takes(shape, operands)? {
                return Ok(false);
            }
        }
        for first in (0..w.outputs()).step_by(slice) {
            let (shape, operands) = part(first);
            self.numbers(weight, w.inputs(), first, shape.outputs)?;
            // SAFETY: the operands of the checked product, of which this is a part, and weights that were just written.
            unsafe { library.run(shape, operands) }?;
        }
        let (bias, activation) = (product.bias.map_or(0, |bias| bias.wide.pointer()), product.activation());
        if bias != 0 || activation.is_some() {
            // SAFETY: the target has `rows` rows of the weight's outputs, and so has the bias one.
            unsafe { finish.finish(operands.out, wide, bias, rows, w.outputs(), activation) }?;
        }
        Ok(true)
    }

    /// Writes `count` outputs from `first` on, the first of a panel, to the scratch as bf16.
    fn numbers(
        &self,
        weight: InBlocks,
        inputs: usize,
        first: usize,
        count: usize,
    ) -> Result<(), KernelError> {
        let InBlocks { format, codes, heads } = weight;
        let arguments = NumbersArguments {
            codes,
            heads,
            to: self.scratch.pointer(),
            inputs: inputs as u32,
            first: first as u32,
            count: count as u32,
        };
        // Not early: what reads the scratch must have ended.
        let tiles = inputs.div_ceil(64);
        let grid = Grid::new(count.div_ceil(TILE_OUTPUTS), THREADS).by(tiles.div_ceil(WARPS));
        // SAFETY: the layout of `Numbers`; the scratch has room for so many outputs, and the weight has them.
        unsafe { self.numbers[format.code() as usize].launch(grid, &arguments) }?;
        Ok(())
    }
}

/// Bytes of the sums that a block's warps share.
fn sums(rows: usize) -> usize {
    if rows > 8 { 2 * SUMS } else { SUMS }
}

/// Vectors of 16 bytes from one row of x to the next in shared memory, or 0 where x stays in the device's memory: because a block has
/// one unit of outputs and reads x once, or because it does not fit beside `taken` bytes of the `shared` that a block can have.
fn pitch(shared: usize, taken: usize, rows: usize, inputs: usize, units: usize) -> usize {
    let vectors = inputs / 8;
    // Rows of neighbouring lanes lie in different banks.
    let pitch = if vectors.is_multiple_of(8) { vectors + 4 } else { vectors };
    if units > 1 && taken + rows * pitch * 16 <= shared { pitch } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{BlockFormat, DEPTH, WARPS, pitch, slot, sums};

    #[test]
    fn rings_and_rows_fit_what_there_is() {
        // Of an H100 and of a GPU with 100 KB.
        for shared in [232_448, 101_376] {
            for format in BlockFormat::ALL {
                for (rows, inputs) in
                    [(2, 4096), (2, 14336), (8, 4096), (8, 14336), (16, 4096), (16, 14336), (16, 32)]
                {
                    let taken = DEPTH * WARPS * slot(format) + sums(rows);
                    let pitch = pitch(shared, taken, rows, inputs, 2);
                    let bytes = taken + rows * pitch * 16;
                    assert!(bytes <= shared, "{format} {rows} rows of {inputs}: {bytes}");
                    // Eight lanes read 4 vectors of two rows at once: all 32 banks.
                    assert!(pitch == 0 || (pitch >= inputs / 8 && pitch % 8 == 4), "{pitch}");
                }
            }
        }
        let large = |rows, inputs, units| {
            pitch(232_448, DEPTH * WARPS * slot(BlockFormat::Q4_1) + sums(rows), rows, inputs, units)
        };
        assert_eq!((large(2, 4096, 2), large(2, 4096, 1), large(8, 4096, 4)), (516, 0, 516));
        assert_eq!((large(8, 14336, 2), large(16, 4096, 2)), (0, 516));
    }
}
