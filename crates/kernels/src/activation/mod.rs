//! The activations of the feed-forward block.
//!
//! Where only the result is wanted the GELUs are epilogues of [`matmul`](crate::matmul::matmul()); training also needs
//! what went in, so here they stand alone, with their gradients.

mod cpu;
mod cuda;
#[cfg(test)]
mod cuda_tests;
pub(crate) mod gelu;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
mod train_cuda;
#[cfg(test)]
mod train_cuda_tests;

pub(crate) use train_cuda::TRAIN_SOURCE;
pub use train_cuda::TrainActivation;

pub use cuda::DeviceActivation;
pub(crate) use cuda::{CODES, SOURCE, code as gelu_code};

use crate::error::check_length;
use crate::simd::Isa;
use crate::{KernelError, Team};

/// Which GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeluKind {
    /// GPT-2's, with tanh.
    Tanh,
    /// The exact one, with erf.
    Erf,
}

/// Writes `gelu(x)` to `out`, of the same length: the same function as the epilogue of a product.
///
/// Errors: the lengths differ.
pub fn gelu(team: &Team, kind: GeluKind, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
    check_length("gelu", "out", x.len(), out.len())?;
    cpu::gelu(team, Isa::best(), kind, x, None, out);
    Ok(())
}

/// Writes `dy * gelu'(x)` to `dx`, all of the same length.
///
/// Errors: the lengths differ.
pub fn gelu_backward(
    team: &Team,
    kind: GeluKind,
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "gelu_backward";
    check_length(OP, "dy", x.len(), dy.len())?;
    check_length(OP, "dx", x.len(), dx.len())?;
    cpu::gelu(team, Isa::best(), kind, x, Some(dy), dx);
    Ok(())
}

/// Writes the gradient of [`silu_mul`]'s operands to `d_gate_up`, `[t, 2m]` with the gate first, from the operands
/// `gate_up`, `[t, 2m]`, and the gradient of its result `dy`, `[t, m]`; m is `width`.
///
/// Errors: the lengths are not whole rows of `width` that agree.
pub fn silu_mul_backward(
    team: &Team,
    gate_up: &[f32],
    width: usize,
    dy: &[f32],
    d_gate_up: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "silu_mul_backward";
    let rows = dy.len().checked_div(width).unwrap_or(0);
    check_length(OP, "dy, in whole rows,", rows * width, dy.len())?;
    check_length(OP, "gate_up", dy.len().saturating_mul(2), gate_up.len())?;
    check_length(OP, "d_gate_up", gate_up.len(), d_gate_up.len())?;
    if !dy.is_empty() {
        cpu::silu_mul_backward(team, Isa::best(), gate_up, width, dy, d_gate_up);
    }
    Ok(())
}

/// Writes `silu(gate) * up` to `out`, `[t, m]`, from `gate_up`, `[t, 2m]` with the gate first; m is `width`.
///
/// Element by element, so nothing depends on t. Errors: the lengths are not whole rows of `width` that agree.
pub fn silu_mul(team: &Team, gate_up: &[f32], width: usize, out: &mut [f32]) -> Result<(), KernelError> {
    silu_mul_with(Isa::best(), team, gate_up, width, out)
}

/// [`silu_mul`] with the given instruction set, or the portable one where the machine lacks it.
///
/// Errors: as [`silu_mul`].
pub fn silu_mul_with(
    isa: Isa,
    team: &Team,
    gate_up: &[f32],
    width: usize,
    out: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "silu_mul";
    let rows = out.len().checked_div(width).unwrap_or(0);
    check_length(OP, "out, in whole rows,", rows * width, out.len())?;
    check_length(OP, "gate_up", out.len().saturating_mul(2), gate_up.len())?;
    if !out.is_empty() {
        cpu::silu_mul(team, isa, gate_up, width, out);
    }
    Ok(())
}
