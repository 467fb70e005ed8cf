//! Gates that decide when an entry is made, packed for the processor; a device takes their rows.

use dropcap_kernels::matmul::{Orientation, PackedMatrix, Part, TensorBytes};
use dropcap_kernels::{DType, KernelError, Team};

/// The gates of all layers: G numbers of each token, and the entry of head g is to stay iff the sum of its number and
/// its bias is positive.
///
/// Source: the delayed eviction of DMS (Lancucki et al. 2025, arXiv 2506.05345), with a linear gate of the input of the
/// attention block as KVzap has (Jegou, Jeblick 2026, arXiv 2601.07891).
#[derive(Debug)]
pub struct BirthGates {
    heads: usize,
    layers: Vec<BirthLayer>,
    kv_dtype: Option<DType>,
}

/// The gates of one layer.
#[derive(Debug)]
pub struct BirthLayer {
    /// `[G, c]`
    pub(crate) weights: PackedMatrix,
    bias: Vec<f32>,
}

impl BirthGates {
    /// G gate heads (1, or one per lane), without layers.
    #[must_use]
    pub fn new(heads: usize) -> Self {
        Self { heads, layers: Vec::new(), kv_dtype: None }
    }

    /// The same gates, with biases that were settled for a cache of this format, if it is known.
    #[must_use]
    pub fn settled_for(self, kv_dtype: Option<DType>) -> Self {
        Self { kv_dtype, ..self }
    }

    /// Adds the next layer: row-major f32 `[G, c]`, and what is added to every score, `[G]`.
    ///
    /// # Errors
    /// A matrix of another size; no memory for it.
    pub fn push(
        &mut self,
        team: &Team,
        weights: &[f32],
        bias: &[f32],
        hidden: usize,
    ) -> Result<(), KernelError> {
        let part = Part {
            source: TensorBytes { dtype: DType::F32, bytes: bytemuck::cast_slice(weights) },
            orientation: Orientation::OutputsByInputs,
            outputs: self.heads,
        };
        // Always f32: a decision is a sign.
        let weights = PackedMatrix::pack(team, &[part], hidden, DType::F32)?;
        if bias.len() != self.heads {
            let (op, what) = ("pack gates", "bias");
            return Err(KernelError::Length { op, what, expected: self.heads, got: bias.len() });
        }
        self.layers.push(BirthLayer { weights, bias: bias.to_vec() });
        Ok(())
    }

    /// Gate heads G of each layer.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// The format of the cache that the biases were settled for, where it is known. In another format the layers below
    /// round differently, and scores that lie at the threshold fall on its other side.
    #[must_use]
    pub fn kv_dtype(&self) -> Option<DType> {
        self.kv_dtype
    }

    /// One element per layer, from the embedding on.
    #[must_use]
    pub fn layers(&self) -> &[BirthLayer] {
        &self.layers
    }
}

impl BirthLayer {
    /// A row-major copy of the weights, f32 `[G, c]`.
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
