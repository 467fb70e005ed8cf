//! What the forward pass's votes leave for the way back under the hard rule.

use super::{OP, SIDE};
use crate::KernelError;
use crate::cuda::{Device, DeviceBuffer};
use crate::error::{check_at_least, checked_size};
use crate::gated_attention::GatedShape;

/// One layer's votes as its backward pass wants them, kept from the forward pass: without them it votes again.
#[derive(Debug)]
pub struct GateTrail {
    /// f32 `[b, G, tiles, T]`: each key's smallest score before a tile of queries, in powers of two.
    pub(super) smallest: DeviceBuffer<f32>,
    /// u32 `[b, G, T]`: the first query for which a key's votes have no gradient any more.
    pub(super) fades_at: DeviceBuffer<u32>,
}

impl GateTrail {
    /// Numbers for a token: of the smallest scores of all keys there are as many as tokens squared. None are kept where they would
    /// be more than the layer's gates, which grow with the tokens alone.
    #[must_use]
    pub fn numbers(tokens: usize, gate_heads: usize, gate_width: usize) -> usize {
        let tiles = tokens.div_ceil(SIDE);
        if tiles <= 2 * gate_width { gate_heads * (tiles + 1) } else { 0 }
    }

    /// Room for a layer of `shape`, or none where too much would be kept.
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Device, shape: &GatedShape) -> Result<Option<Self>, KernelError> {
        if Self::numbers(shape.tokens, shape.gate_heads, shape.gate_width) == 0 {
            return Ok(None);
        }
        let rows = checked_size(OP, &[shape.sequences, shape.gate_heads, shape.tokens])?;
        let smallest = checked_size(OP, &[rows, shape.tokens.div_ceil(SIDE)])?;
        Ok(Some(Self {
            smallest: DeviceBuffer::uninitialized(device, "the trail of votes", smallest)?,
            fades_at: DeviceBuffer::uninitialized(device, "the trail of votes", rows)?,
        }))
    }

    /// Refuses a shape that it has no room for.
    pub(super) fn check(&self, shape: &GatedShape) -> Result<(), KernelError> {
        let rows = checked_size(OP, &[shape.sequences, shape.gate_heads, shape.tokens])?;
        check_at_least(OP, "fades of keys", rows, self.fades_at.len())?;
        let smallest = checked_size(OP, &[rows, shape.tokens.div_ceil(SIDE)])?;
        check_at_least(OP, "the trail of votes", smallest, self.smallest.len())
    }
}
