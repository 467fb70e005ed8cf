//! Weights in the processor's memory, packed for its products.

use std::sync::{Mutex, PoisonError};

use dropcap_kernels::{DType, Epilogue, KernelError, Part, Shelf, Team, layer_norm, rms_norm};

use super::matrix::HostMatrix;
use crate::ModelError;
use crate::weights::{
    Held, LayerWeights, Linear, NormWeights, Storage, StoredAs, WeightFormat, Weights, formats_by_bytes,
};

/// Matrices in panels; biases and norms are f32.
#[derive(Debug)]
pub(crate) struct HostMemory {
    format: WeightFormat,
    /// Where small matrices lie side by side.
    shelf: Mutex<Shelf>,
}

impl HostMemory {
    pub(super) fn new(format: WeightFormat) -> Self {
        Self { format, shelf: Mutex::default() }
    }

    fn shelved(&self, matrix: HostMatrix) -> HostMatrix {
        matrix.kept_on(&mut self.shelf.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Storage for HostMemory {
    type Matrix = HostMatrix;
    type Bias = Vec<f32>;
    type Vector = Vec<f32>;

    /// Enough for the disk and the threads, little beside the weights.
    const SLICE: usize = 1 << 21;

    fn held(&self, inputs: usize, table: bool, parts: &[StoredAs]) -> Held {
        self.format.held(inputs, table, parts)
    }

    fn bias_dtype(&self) -> DType {
        DType::F32
    }

    fn table_rows(&self, tokens: usize) -> usize {
        tokens
    }

    fn zeroed(&self, outputs: usize, inputs: usize, held: Held) -> Result<HostMatrix, ModelError> {
        Ok(self.shelved(HostMatrix::zeroed(outputs, inputs, held)?))
    }

    fn fill(
        &self,
        team: &Team,
        matrix: &mut HostMatrix,
        first_output: usize,
        part: &Part<'_>,
    ) -> Result<(), ModelError> {
        Ok(matrix.fill(team, first_output, part)?)
    }

    fn fill_blocks(
        &self,
        team: &Team,
        matrix: &mut HostMatrix,
        first_output: usize,
        outputs: usize,
        blocks: &[u8],
    ) -> Result<(), ModelError> {
        Ok(matrix.fill_blocks(team, first_output, outputs, blocks)?)
    }

    fn random(
        &self,
        outputs: usize,
        inputs: usize,
        held: Held,
        scale: f32,
        seed: u64,
    ) -> Result<HostMatrix, ModelError> {
        Ok(self.shelved(HostMatrix::random(outputs, inputs, held, scale, seed)?))
    }

    fn bias(&self, numbers: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        Ok(numbers)
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        Ok(numbers)
    }
}

impl Linear<HostMemory> {
    /// Applies the map to `x` `[t, inputs]` and writes or adds `[t, outputs]` to `out` as `epilogue` says.
    ///
    /// # Errors
    /// Lengths of `x` or `out` that are not the same number of rows.
    pub(super) fn apply(
        &self,
        team: &Team,
        x: &[f32],
        epilogue: Epilogue,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        self.weight.apply(team, x, self.bias.as_deref(), epilogue, out)
    }

    fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_deref().map_or(0, size_of_val)
    }
}

impl NormWeights<HostMemory> {
    /// Normalises each row of `x` `[t, c]` into `out` `[t, c]`.
    ///
    /// # Errors
    /// Lengths that are not multiples of `c` or differ from each other.
    pub(super) fn apply(
        &self,
        team: &Team,
        epsilon: f32,
        x: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        match &self.bias {
            Some(bias) => layer_norm(team, x, &self.weight, bias, epsilon, out),
            None => rms_norm(team, x, &self.weight, epsilon, out),
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(self.weight.as_slice()) + self.bias.as_deref().map_or(0, size_of_val)
    }
}

impl LayerWeights<HostMemory> {
    fn bytes(&self) -> usize {
        let norms = self.attention_norm.bytes() + self.mlp_norm.bytes();
        let heads = [&self.query_norm, &self.key_norm].into_iter().flatten();
        norms
            + heads.map(|norm| size_of_val(norm.as_slice())).sum::<usize>()
            + self.linears().into_iter().map(Linear::bytes).sum::<usize>()
    }
}

impl Weights<HostMemory> {
    /// The output head `[v, c]`.
    pub(super) fn head(&self) -> &HostMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The names of the matrices' formats, that of the most bytes first, with `+` between them.
    pub(super) fn formats(&self) -> String {
        let layers = self.layers.iter().flat_map(LayerWeights::linears).map(|linear| &linear.weight);
        let tables = [Some(&self.embedding), self.positions.as_ref(), self.head.as_ref()];
        let all = layers.chain(tables.into_iter().flatten());
        formats_by_bytes(all.map(|matrix| (matrix.format(), matrix.bytes())))
    }

    /// Bytes of all layers.
    pub(super) fn layer_bytes(&self) -> usize {
        self.layers.iter().map(LayerWeights::bytes).sum()
    }
}
