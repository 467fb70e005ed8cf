//! Matrix products with weights that were packed once: `out = epilogue(x W^T + bias)`.
//!
//! Every element of `out` is one chain of f32 multiply-adds over the inputs in ascending order, then the bias, then the
//! epilogue. Neither t, nor the tile that an element falls in, nor the number of threads changes that sequence, so
//! prefill, chunked prefill, batches and single decode give rows that are equal to the last bit. Instruction sets do
//! differ from each other in the last bits (the portable one may round twice per step).

mod bias;
mod blas;
mod blocks;
mod blocks_row;
mod checked;
mod cpu;
mod cuda;
#[cfg(test)]
mod cuda_tests;
mod fill;
mod gradient;
mod lt;
mod matrix;
mod matrix_blocks;
mod packed;
mod quantised;
mod random;
mod recent;
#[cfg(test)]
mod reference;
mod rows;
mod stream;
#[cfg(test)]
mod tests;
mod tile;
mod train_cuda;
#[cfg(test)]
mod train_cuda_tests;

pub use train_cuda::{Sum, TrainMatrix, TrainProducts};

pub use bias::DeviceBias;
pub use cuda::{DeviceMatmul, Target};
pub use gradient::{Columns, column_sums, transposed_product, transposed_product_with};
pub use matrix::{DeviceMatrix, MatrixFormat};
pub use packed::{Orientation, PANEL, PackedMatrix, Part, TensorBytes};

pub(crate) use blocks::SOURCE as BLOCKS;
pub(crate) use matrix_blocks::InBlocks;
pub use quantised::{BlockFormat, QuantisedMatrix, quantised_matmul};
pub use random::DeviceRandom;
pub(crate) use random::SOURCE as RANDOM;
pub(crate) use stream::SOURCE as GEMV;

use crate::error::{check_length, checked_size};
use crate::simd::Isa;
use crate::{KernelError, Team};

/// What becomes of a sum, its bias included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epilogue {
    /// `out = y`
    Store,
    /// `out = out + y`: the residual connection.
    Add,
    /// `out = gelu(y)` with GPT-2's tanh.
    GeluTanh,
    /// `out = gelu(y)` with erf.
    Gelu,
}

/// Writes `epilogue(x W^T + bias)` to `out`, `[t, n]`, from `x`, `[t, k]`, with the best instructions of this machine.
///
/// Errors: `x` is not whole rows of `w.inputs()`, `bias` is not `[n]` or `out` is not `[t, n]`.
pub fn matmul(
    team: &Team,
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) -> Result<(), KernelError> {
    matmul_with(Isa::best(), team, x, w, bias, epilogue, out)
}

/// [`matmul`] with the given instruction set, or the portable one where the machine lacks it.
///
/// Errors: as [`matmul`].
pub fn matmul_with(
    isa: Isa,
    team: &Team,
    x: &[f32],
    w: &PackedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "matmul";
    let rows = x.len() / w.inputs();
    check_length(OP, "x, in whole rows,", rows * w.inputs(), x.len())?;
    check_length(OP, "out", checked_size(OP, &[rows, w.outputs()])?, out.len())?;
    if let Some(bias) = bias {
        check_length(OP, "bias", w.outputs(), bias.len())?;
    }
    if rows > 0 {
        cpu::matmul(team, isa, x, w, bias, epilogue, out);
    }
    Ok(())
}
