//! Matrix products with weights held in blocks of 8 or 4 bits, as ggml's files have them: `out = epilogue(x W^T + bias)`.
//!
//! A row of x is quantised too, 32 inputs at a time to signed bytes with a scale (ggml's Q8_0, the scale in f32), so that a
//! block is an exact dot product of integers and one multiply-add: every element of `out` is a chain of those over the blocks in
//! ascending order, then the bias, then the epilogue. A row is quantised for itself, and neither t nor the number of threads
//! changes the sequence, so rows are equal to the last bit whatever they are computed with. Instruction sets differ from
//! each other only in how that chain rounds.

mod activations;
mod encode;
mod format;
mod matrix;
mod product;
#[cfg(test)]
mod tests;
mod tiles;
#[cfg(test)]
mod tiles_tests;

pub use format::BlockFormat;
pub use matrix::QuantisedMatrix;
pub(crate) use tiles::{OUTPUTS as TILE_OUTPUTS, Panels, Tiles};

use super::Epilogue;
use crate::error::{check_length, checked_size};
use crate::simd::Isa;
use crate::{KernelError, Team};

/// Inputs of a block.
pub const BLOCK: usize = 32;

const OP: &str = "quantised matmul";

/// Writes `epilogue(x W^T + bias)` to `out`, `[t, n]`, from `x`, `[t, k]`, with the best instructions of this machine.
///
/// Errors: `x` is not whole rows of `w.inputs()`, `bias` is not `[n]` or `out` is not `[t, n]`.
pub fn quantised_matmul(
    team: &Team,
    x: &[f32],
    w: &QuantisedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) -> Result<(), KernelError> {
    with(Isa::best_for_bytes(), team, x, w, bias, epilogue, out)
}

/// [`quantised_matmul`] with the given instruction set.
fn with(
    isa: Isa,
    team: &Team,
    x: &[f32],
    w: &QuantisedMatrix,
    bias: Option<&[f32]>,
    epilogue: Epilogue,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let rows = x.len() / w.inputs();
    check_length(OP, "x, in whole rows,", rows * w.inputs(), x.len())?;
    check_length(OP, "out", checked_size(OP, &[rows, w.outputs()])?, out.len())?;
    if let Some(bias) = bias {
        check_length(OP, "bias", w.outputs(), bias.len())?;
    }
    if rows > 0 {
        product::multiply(team, isa, x, w, bias, epilogue, out);
    }
    Ok(())
}
