//! The activations of the feed-forward block.
//!
//! The GELUs are epilogues of [`matmul`](crate::matmul::matmul()); what stands here needs two products at once.

mod cpu;
pub(crate) mod gelu;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;

use crate::error::check_length;
use crate::simd::Isa;
use crate::{KernelError, Team};

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
