//! The gates of a vote, packed for the processor; a device takes their rows.

use dropcap_kernels::matmul::{Orientation, PackedMatrix, Part, TensorBytes};
use dropcap_kernels::{DType, KernelError, Team};

/// The gates of all layers: of each token, G query gates and G key gates of r numbers each.
#[derive(Debug)]
pub struct VoteGates {
    width: usize,
    heads: usize,
    layers: Vec<VoteLayer>,
    kv_dtype: Option<DType>,
}

/// The gates of one layer.
#[derive(Debug)]
pub struct VoteLayer {
    /// W_q of all gate heads above W_k of all gate heads, `[2 G r, c]`: one product gives all gates of a token.
    pub(crate) both: PackedMatrix,
    bias: Vec<f32>,
}

impl VoteGates {
    /// Gates of width r and G gate heads (1, or one per lane), without layers.
    #[must_use]
    pub fn new(width: usize, heads: usize) -> Self {
        Self { width, heads, layers: Vec::new(), kv_dtype: None }
    }

    /// The same gates, with biases that were settled for a cache of this format, if it is known.
    #[must_use]
    pub fn settled_for(self, kv_dtype: Option<DType>) -> Self {
        Self { kv_dtype, ..self }
    }

    /// Adds the next layer: W_q and W_k, row-major f32 `[G r, c]`, and what is added to every score, `[G]`.
    ///
    /// # Errors
    /// Matrices of other sizes; no memory for them.
    pub fn push(
        &mut self,
        team: &Team,
        query: &[f32],
        key: &[f32],
        bias: &[f32],
        hidden: usize,
    ) -> Result<(), KernelError> {
        let outputs = self.heads * self.width;
        let parts = [query, key].map(|matrix| Part {
            source: TensorBytes { dtype: DType::F32, bytes: bytemuck::cast_slice(matrix) },
            orientation: Orientation::OutputsByInputs,
            outputs,
        });
        // Always f32: a decision is a sign.
        let both = PackedMatrix::pack(team, &parts, hidden, DType::F32)?;
        if bias.len() != self.heads {
            let (op, what) = ("pack gates", "bias");
            return Err(KernelError::Length { op, what, expected: self.heads, got: bias.len() });
        }
        self.layers.push(VoteLayer { both, bias: bias.to_vec() });
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

    /// The format of the cache that the biases were settled for, where it is known. In another format key gates are
    /// rounded differently, and scores that lie at the threshold fall on its other side.
    #[must_use]
    pub fn kv_dtype(&self) -> Option<DType> {
        self.kv_dtype
    }

    /// One element per layer, from the embedding on.
    #[must_use]
    pub fn layers(&self) -> &[VoteLayer] {
        &self.layers
    }
}

impl VoteLayer {
    /// W_q of all gate heads above W_k of all gate heads: a row-major copy, f32 `[2 G r, c]`.
    #[must_use]
    pub fn rows(&self) -> Vec<f32> {
        let inputs = self.both.inputs();
        let mut rows = vec![0.0; self.both.outputs() * inputs];
        rows.chunks_exact_mut(inputs.max(1)).enumerate().for_each(|(output, row)| self.both.row(output, row));
        rows
    }

    /// What is added to every score, `[G]`.
    #[must_use]
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }
}
