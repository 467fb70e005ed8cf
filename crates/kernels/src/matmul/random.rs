//! Random numbers on the device, and the other kernel that fills weights.

use super::InBlocks;
use super::quantised::{BLOCK, BlockFormat};
use crate::cuda::{
    Argument, Device, DeviceBuffer, Function, Grid, Module, Source, Specialisation, kernel_struct,
};
use crate::error::{check_at_least, checked_size};
use crate::{DType, KernelError};

pub(crate) const SOURCE: Source = Source {
    file: "matmul/random.cu",
    text: concat!(include_str!("blocks.cuh"), include_str!("random.cu")),
    constants: |_, _| [("FILL_THREADS", THREADS)].into_iter().chain(BlockFormat::CODES).collect(),
    arguments: &[FillArguments::LAYOUT, FillBlocksArguments::LAYOUT, TurnArguments::LAYOUT],
};

const OP: &str = "random numbers on the device";
const THREADS: usize = 256;

/// Fills memory of the device with evenly distributed numbers.
#[derive(Debug, Clone)]
pub struct DeviceRandom {
    f32: Function,
    f16: Function,
    bf16: Function,
    /// By format.
    blocks: [Function; 3],
    turn_32: Function,
    turn_16: Function,
}

kernel_struct! {
    struct FillArguments as Fill {
        to: u64,
        count: u64,
        seed: u64,
        inputs: u64,
        scale: f32,
    }
}

kernel_struct! {
    struct FillBlocksArguments as FillBlocks {
        codes: u64,
        heads: u64,
        seed: u64,
        outputs: u32,
        inputs: u32,
        scale: f32,
    }
}

kernel_struct! {
    struct TurnArguments as Turn {
        from: u64,
        to: u64,
        inputs: u32,
        outputs: u32,
    }
}

impl DeviceRandom {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &SOURCE, specialisation)?;
        Ok(Self {
            f32: module.function("fill_f32", 0)?,
            f16: module.function("fill_f16", 0)?,
            bf16: module.function("fill_bf16", 0)?,
            blocks: [
                module.function("fill_q8_0", 0)?,
                module.function("fill_q4_0", 0)?,
                module.function("fill_q4_1", 0)?,
            ],
            turn_32: module.function("turn_32", 0)?,
            turn_16: module.function("turn_16", 0)?,
        })
    }

    /// Sets the first `count` numbers of `buffer`, of type `dtype`, to values in `-scale..=scale` that depend on the
    /// seed and their place only.
    ///
    /// # Errors
    /// A buffer that is too short, or a failed device.
    pub fn fill(
        &self,
        buffer: &DeviceBuffer<u8>,
        dtype: DType,
        count: usize,
        scale: f32,
        seed: u64,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "the buffer", checked_size(OP, &[count, dtype.bytes()])?, buffer.len())?;
        // SAFETY: of that length, as just checked.
        unsafe { self.launch(buffer.pointer(), dtype, count, 0, scale, seed) }
    }

    /// As [`DeviceRandom::fill`] for all of an f32 buffer.
    ///
    /// # Errors
    /// A failed device.
    pub fn fill_f32(&self, buffer: &DeviceBuffer<f32>, scale: f32, seed: u64) -> Result<(), KernelError> {
        // SAFETY: of its own length.
        unsafe { self.launch(buffer.pointer(), DType::F32, buffer.len(), 0, scale, seed) }
    }

    /// `count` numbers at `to`; with `inputs` numbered as [`PackedMatrix::random`](crate::PackedMatrix::random) does.
    ///
    /// # Safety
    /// The address is that of a buffer with so many.
    pub(super) unsafe fn launch(
        &self,
        to: u64,
        dtype: DType,
        count: usize,
        inputs: usize,
        scale: f32,
        seed: u64,
    ) -> Result<(), KernelError> {
        let function = match dtype {
            DType::F32 => &self.f32,
            DType::F16 => &self.f16,
            DType::Bf16 => &self.bf16,
        };
        let arguments = FillArguments { to, count: count as u64, seed, inputs: inputs as u64, scale };
        let blocks = count.div_ceil(THREADS).min(4096);
        // SAFETY: the layout of `Fill`; the caller's promise.
        unsafe { function.launch(Grid::new(blocks, THREADS as u32), &arguments) }?;
        Ok(())
    }

    /// The blocks of a weight `[outputs, inputs]`, as [`QuantisedMatrix::random`](crate::QuantisedMatrix::random) has them; what is
    /// past the end stays as it is.
    ///
    /// # Safety
    /// The weight has that shape.
    pub(super) unsafe fn fill_blocks(
        &self,
        blocks: InBlocks,
        (outputs, inputs): (usize, usize),
        scale: f32,
        seed: u64,
    ) -> Result<(), KernelError> {
        let (count, shape) = (outputs * (inputs / BLOCK), (outputs as u32, inputs as u32));
        let InBlocks { format, codes, heads } = blocks;
        let arguments = FillBlocksArguments { codes, heads, seed, outputs: shape.0, inputs: shape.1, scale };
        let grid = Grid::new(count.div_ceil(THREADS), THREADS as u32);
        // SAFETY: the layout of `FillBlocks`; the caller's promise.
        unsafe { self.blocks[format.code() as usize].launch(grid, &arguments) }?;
        Ok(())
    }

    /// Writes the transpose of `[inputs, outputs]` elements at `from` to `to`.
    ///
    /// # Safety
    /// The addresses are those of different buffers with so many.
    pub(super) unsafe fn turn(
        &self,
        dtype: DType,
        from: u64,
        to: u64,
        inputs: usize,
        outputs: usize,
    ) -> Result<(), KernelError> {
        let function = if dtype.bytes() == 4 { &self.turn_32 } else { &self.turn_16 };
        let arguments = TurnArguments { from, to, inputs: inputs as u32, outputs: outputs as u32 };
        let grid = Grid::new(outputs.div_ceil(32), THREADS as u32).by(inputs.div_ceil(32));
        // SAFETY: the layout of `Turn`; the caller's promise.
        unsafe { function.launch(grid, &arguments) }?;
        Ok(())
    }
}
