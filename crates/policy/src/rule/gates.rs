//! Learned gates, packed for the processor; a device takes their rows.

use dropcap_kernels::matmul::{Orientation, PackedMatrix, Part, TensorBytes};
use dropcap_kernels::{DType, KernelError, Team};

/// The gates of all layers: linear maps of each token, each to G gate heads of r numbers, and a bias for each head.
#[derive(Debug)]
pub struct RuleGates<const MAPS: usize> {
    width: usize,
    heads: usize,
    layers: Vec<GateLayer>,
    kv_dtype: Option<DType>,
}

/// Gates that vote: of each token query gates and key gates, in this order.
pub type VoteGates = RuleGates<2>;

/// Gates that decide when an entry is made: one number of each token and head, and the entry of head g is to stay iff the
/// sum of its number and its bias is positive.
///
/// Source: the delayed eviction of DMS (Lancucki et al. 2025, arXiv 2506.05345), with a linear gate of the input of the
/// attention block as KVzap has (Jegou, Jeblick 2026, arXiv 2601.07891).
pub type BirthGates = RuleGates<1>;

/// The gates of one layer.
#[derive(Debug)]
pub struct GateLayer {
    /// Each map's gate heads above those of the next, `[MAPS G r, c]`: one product gives all gates of a token.
    pub(crate) weights: PackedMatrix,
    bias: Vec<f32>,
}

impl VoteGates {
    /// Gates of width r and G gate heads (1, or one per lane), without layers.
    #[must_use]
    pub fn new(width: usize, heads: usize) -> Self {
        Self { width, heads, layers: Vec::new(), kv_dtype: None }
    }
}

impl BirthGates {
    /// G gate heads (1, or one per lane), without layers.
    #[must_use]
    pub fn new(heads: usize) -> Self {
        Self { width: 1, heads, layers: Vec::new(), kv_dtype: None }
    }
}

impl<const MAPS: usize> RuleGates<MAPS> {
    /// The same gates, with biases that were settled for a cache of this format, if it is known.
    #[must_use]
    pub fn settled_for(self, kv_dtype: Option<DType>) -> Self {
        Self { kv_dtype, ..self }
    }

    /// Adds the next layer: its maps, each row-major f32 `[G r, c]`, and what is added to every score, `[G]`.
    ///
    /// # Errors
    /// Maps of other sizes; no memory for them.
    pub fn push(
        &mut self,
        team: &Team,
        maps: [&[f32]; MAPS],
        bias: &[f32],
        hidden: usize,
    ) -> Result<(), KernelError> {
        let outputs = self.heads * self.width;
        let parts = maps.map(|map| Part {
            source: TensorBytes { dtype: DType::F32, bytes: bytemuck::cast_slice(map) },
            orientation: Orientation::OutputsByInputs,
            outputs,
        });
        // Always f32: a decision is a sign.
        let weights = PackedMatrix::pack(team, &parts, hidden, DType::F32)?;
        if bias.len() != self.heads {
            let (op, what) = ("pack gates", "bias");
            return Err(KernelError::Length { op, what, expected: self.heads, got: bias.len() });
        }
        self.layers.push(GateLayer { weights, bias: bias.to_vec() });
        Ok(())
    }

    /// Gate width r of each gate head.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Gate heads G of each layer.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The format of the cache that the biases were settled for, where it is known. In another format what gates read, and
    /// the key gates that are kept, are rounded differently, and scores that lie at the threshold fall on its other side.
    #[must_use]
    pub fn kv_dtype(&self) -> Option<DType> {
        self.kv_dtype
    }

    /// One element per layer, from the embedding on.
    #[must_use]
    pub fn layers(&self) -> &[GateLayer] {
        &self.layers
    }
}

impl GateLayer {
    /// Each map's gate heads above those of the next: a row-major copy, f32 `[MAPS G r, c]`.
    #[must_use]
    pub fn rows(&self) -> Vec<f32> {
        let inputs = self.weights.inputs();
        let mut rows = vec![0.0; self.weights.outputs() * inputs];
        rows.chunks_exact_mut(inputs.max(1))
            .enumerate()
            .for_each(|(output, row)| self.weights.row(output, row));
        rows
    }

    /// What is added to every score, `[G]`.
    #[must_use]
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }
}
