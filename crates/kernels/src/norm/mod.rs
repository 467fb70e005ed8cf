//! Layer norm and RMS norm; a row is one vector of `weight.len()` elements.
//!
//! Each row is its own computation in a fixed order of additions, so nothing depends on t or the number of threads.

mod backward;
mod cpu;
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
mod train_cuda;
#[cfg(test)]
mod train_cuda_tests;

pub(crate) use train_cuda::TRAIN_SOURCE;
pub use train_cuda::{NormSlices, TrainNorm};

pub(crate) use cuda::SOURCE;
pub use cuda::{DeviceNorm, NormParameters, Unrounded};

pub use backward::{layer_norm_backward, rms_norm_backward, rms_norm_heads_backward};

use crate::error::{check_length, checked_size};
use crate::simd::Isa;
use crate::{KernelError, Team};

/// Writes `(x - mean) / sqrt(variance + epsilon) * weight + bias` to `out`, row by row; `x` and `out` are `[t, c]`,
/// `weight` and `bias` `[c]`.
///
/// Errors: no weight, or lengths that do not agree.
pub fn layer_norm(
    team: &Team,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "layer_norm";
    check_rows(OP, x, weight, out)?;
    check_length(OP, "bias", weight.len(), bias.len())?;
    cpu::norm(team, Isa::best(), x, weight, Some(bias), epsilon, out);
    Ok(())
}

/// Writes `x / sqrt(mean(x^2) + epsilon) * weight` to `out`, row by row; `x` and `out` are `[t, c]`, `weight` `[c]`.
///
/// Errors: no weight, or lengths that do not agree.
pub fn rms_norm(
    team: &Team,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    check_rows("rms_norm", x, weight, out)?;
    cpu::norm(team, Isa::best(), x, weight, None, epsilon, out);
    Ok(())
}

/// [`rms_norm`] in place on the `heads` vectors of `weight.len()` (d) elements that start at `offset` of every row of
/// `stride` elements: the query or key norm inside a fused projection.
///
/// Errors: no weight, `rows` is not whole rows of `stride`, or the heads reach past a row's end.
pub fn rms_norm_heads(
    team: &Team,
    rows: &mut [f32],
    stride: usize,
    offset: usize,
    heads: usize,
    weight: &[f32],
    epsilon: f32,
) -> Result<(), KernelError> {
    const OP: &str = "rms_norm_heads";
    check_weight(OP, weight)?;
    crate::rope::check_heads(OP, rows, stride, offset, heads, weight.len())?;
    cpu::rms_norm_heads(team, Isa::best(), rows, stride, offset, heads, weight, epsilon);
    Ok(())
}

fn check_weight(op: &'static str, weight: &[f32]) -> Result<(), KernelError> {
    if weight.is_empty() {
        return Err(KernelError::Invalid {
            op,
            expected: "a weight of at least one element".to_owned(),
            got: "none".to_owned(),
        });
    }
    Ok(())
}

fn check_rows(op: &'static str, x: &[f32], weight: &[f32], out: &[f32]) -> Result<(), KernelError> {
    check_weight(op, weight)?;
    let rows = x.len() / weight.len();
    check_length(op, "x, in whole rows,", checked_size(op, &[rows, weight.len()])?, x.len())?;
    check_length(op, "out", x.len(), out.len())
}
