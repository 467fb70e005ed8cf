//! Rotary position embeddings (Su et al., 2021, arXiv 2104.09864) in the "rotate half" pairing of the published
//! checkpoints: element i of a head turns with element i + rotary/2.

mod anchor;
mod cpu;
mod cuda;
#[cfg(test)]
mod cuda_tests;
#[cfg(test)]
mod reference;
mod renumber;
#[cfg(test)]
mod tests;
mod train_cuda;
#[cfg(test)]
mod train_cuda_tests;
#[cfg(test)]
mod turned_cuda_tests;

pub(crate) use train_cuda::TRAIN_SOURCE;
pub use train_cuda::{HeadNorms, RopeTables, TrainTurn};

pub use anchor::DeviceAnchor;
pub(crate) use anchor::SOURCE as ANCHOR;
pub(crate) use cuda::SOURCE;
pub use cuda::{Birth, Births, DeviceAppend, DeviceRope, StepGates};
pub(crate) use renumber::SOURCE as RENUMBER;
pub use renumber::{DeviceRenumber, Turning};

use crate::error::check_length;
use crate::simd::Isa;
use crate::{KernelError, Team};

/// What a model's rope is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// Radians per position of each pair, `[rotary / 2]`; where rotary < d, a head's other elements stay.
    pub inv_freq: Vec<f32>,
    /// Factor on cos and sin; 1 but for scalings that adjust the attention's temperature.
    pub attention_scaling: f32,
}

/// The cos and sin of some positions: made once a step, used in every layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeAngles {
    /// `[t, rotary / 2]`
    cos: Vec<f32>,
    /// `[t, rotary / 2]`
    sin: Vec<f32>,
    pairs: usize,
    rows: usize,
}

impl RopeTable {
    /// The angles of `positions`, `[t]`.
    ///
    /// The angle is the f32 product of position and frequency, as in transformers, and its cos and sin are correctly
    /// rounded.
    pub fn angles(&self, positions: &[u32]) -> RopeAngles {
        let pairs = self.inv_freq.len();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        cos.reserve_exact(pairs * positions.len());
        sin.reserve_exact(pairs * positions.len());
        for &position in positions {
            for &frequency in &self.inv_freq {
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push(c as f32 * self.attention_scaling);
                sin.push(s as f32 * self.attention_scaling);
            }
        }
        RopeAngles { cos, sin, pairs, rows: positions.len() }
    }
}

/// Turns the `heads` vectors of `head_dim` that start at `offset` of every row of `stride` elements by the row's
/// position; `rows` is `[t, stride]`, `positions` `[t]`.
///
/// Errors: lengths that do not agree, heads that reach past a row's end, or a table wider than a head.
#[allow(clippy::too_many_arguments)] // the operation's own arguments
pub fn rope(
    team: &Team,
    rows: &mut [f32],
    stride: usize,
    offset: usize,
    heads: usize,
    head_dim: usize,
    positions: &[u32],
    table: &RopeTable,
) -> Result<(), KernelError> {
    check("rope", rows, (stride, offset, heads, head_dim), positions.len(), table.inv_freq.len())?;
    rotate(team, rows, stride, offset, heads, head_dim, &table.angles(positions))
}

/// [`rope`] with angles made before.
///
/// Errors: as [`rope`].
pub fn rotate(
    team: &Team,
    rows: &mut [f32],
    stride: usize,
    offset: usize,
    heads: usize,
    head_dim: usize,
    angles: &RopeAngles,
) -> Result<(), KernelError> {
    check("rotate", rows, (stride, offset, heads, head_dim), angles.rows, angles.pairs)?;
    if angles.pairs > 0 && heads > 0 {
        cpu::rotate::<false>(team, Isa::best(), rows, stride, offset, heads, head_dim, angles);
    }
    Ok(())
}

/// The transpose of [`rotate`], in place: from the gradient of its results to that of its operands.
///
/// It turns back and, like the forward, multiplies by the table's attention scaling, so it is the inverse only where
/// that is 1. Errors: as [`rope`].
pub fn rotate_back(
    team: &Team,
    rows: &mut [f32],
    stride: usize,
    offset: usize,
    heads: usize,
    head_dim: usize,
    angles: &RopeAngles,
) -> Result<(), KernelError> {
    check("rotate_back", rows, (stride, offset, heads, head_dim), angles.rows, angles.pairs)?;
    if angles.pairs > 0 && heads > 0 {
        cpu::rotate::<true>(team, Isa::best(), rows, stride, offset, heads, head_dim, angles);
    }
    Ok(())
}

fn check(
    op: &'static str,
    rows: &[f32],
    (stride, offset, heads, head_dim): (usize, usize, usize, usize),
    positions: usize,
    pairs: usize,
) -> Result<(), KernelError> {
    check_heads(op, rows, stride, offset, heads, head_dim)?;
    check_length(op, "rows", positions.saturating_mul(stride), rows.len())?;
    if pairs.checked_mul(2).is_none_or(|rotary| rotary > head_dim) {
        return Err(KernelError::Invalid {
            op,
            expected: format!("frequencies for at most half of head_dim {head_dim}"),
            got: pairs.to_string(),
        });
    }
    Ok(())
}

/// Refuses heads that do not lie inside whole rows.
pub(crate) fn check_heads(
    op: &'static str,
    rows: &[f32],
    stride: usize,
    offset: usize,
    heads: usize,
    head_dim: usize,
) -> Result<(), KernelError> {
    let count = rows.len().checked_div(stride).unwrap_or(0);
    check_length(op, "rows, in whole strides,", count * stride, rows.len())?;
    let end = heads.checked_mul(head_dim).and_then(|width| width.checked_add(offset));
    if end.is_none_or(|end| end > stride) {
        return Err(KernelError::Invalid {
            op,
            expected: format!("heads that end inside a row of {stride} elements"),
            got: format!("{heads} heads of {head_dim} from {offset}"),
        });
    }
    Ok(())
}
