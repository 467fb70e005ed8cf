//! A decoder's weights in the memory of a device.

use dropcap_kernels::cuda::{Device, DeviceBuffer, Specialisation};
use dropcap_kernels::matmul::{DeviceBias, DeviceMatrix, DeviceRandom};
use dropcap_kernels::{DType, KernelError, Part, Team};

use crate::weights::{Held, LayerWeights, Linear, NormWeights, Storage, StoredAs, Weights, rope_table};
use crate::{Checkpoint, DecoderConfig, ModelError};

/// The weights of a decoder on a device, as one format; norms, biases and frequencies are f32.
#[derive(Debug)]
pub struct DeviceWeights {
    pub(super) device: Device,
    pub(super) config: DecoderConfig,
    pub(super) dtype: DType,
    pub(super) embedding: DeviceMatrix,
    pub(super) positions: Option<DeviceMatrix>,
    /// Frequencies `[rotary / 2]` and the factor of their sines, for families that rotate.
    pub(super) rope: Option<(Vec<f32>, f32)>,
    pub(super) layers: Vec<LayerWeights<DeviceMemory>>,
    pub(super) final_norm: DeviceNormWeights,
    pub(super) head: Option<DeviceMatrix>,
}

/// `y = x W^T + bias` on the device.
pub(super) type DeviceLinear = Linear<DeviceMemory>;

/// The weights of one norm: a bias makes it a LayerNorm.
pub(super) type DeviceNormWeights = NormWeights<DeviceMemory>;

/// Row-major matrices on a device.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    device: Device,
    random: DeviceRandom,
    dtype: DType,
}

impl DeviceWeights {
    /// Reads all weights of a checkpoint and brings them to `device` as `dtype`; `team` converts what is stored otherwise.
    ///
    /// # Errors
    /// A weight that is not finite, or that `dtype` could hold only as infinity; a file that became shorter or
    /// unreadable since the checkpoint was opened; too little memory on the device.
    pub fn load(
        device: &Device,
        team: &Team,
        checkpoint: &Checkpoint,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        let memory = DeviceMemory::new(device, dtype)?;
        Ok(Self::of(&memory, checkpoint.config(), Weights::load(&memory, team, checkpoint)?))
    }

    /// Random weights of `config`'s shape, for measuring it without a checkpoint; made on the device.
    ///
    /// # Errors
    /// Too little memory on the device.
    pub fn random(
        device: &Device,
        config: &DecoderConfig,
        dtype: DType,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let memory = DeviceMemory::new(device, dtype)?;
        Ok(Self::of(&memory, config, Weights::random(&memory, config, seed)?))
    }

    fn of(memory: &DeviceMemory, config: &DecoderConfig, weights: Weights<DeviceMemory>) -> Self {
        let Weights { embedding, positions, layers, final_norm, head } = weights;
        Self {
            device: memory.device.clone(),
            config: config.clone(),
            dtype: memory.dtype,
            embedding,
            positions,
            rope: rope_table(config).map(|table| (table.inv_freq, table.attention_scaling)),
            layers,
            final_norm,
            head,
        }
    }

    /// The architecture.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The format of the weights.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device that they lie on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of weights that one decode step reads: all but the embedding rows it does not look up.
    #[must_use]
    pub fn streamed_bytes(&self) -> usize {
        let layers = self.layers.iter().map(LayerWeights::bytes).sum::<usize>();
        self.head().data().bytes() + layers
    }

    /// The output head `[v, c]`, with some rows more: see [`padded`].
    pub(super) fn head(&self) -> &DeviceMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

impl LayerWeights<DeviceMemory> {
    fn bytes(&self) -> usize {
        let matrices = [&self.qkv, &self.output, &self.up, &self.down];
        matrices.iter().map(|linear| linear.weight.data().bytes()).sum()
    }
}

/// Outputs of a head over so many tokens: the library is slow where rows of logits do not begin at 16 bytes (GPT-2 has
/// 50257 tokens; LOG.md). Nobody reads the logits of the rows beyond.
fn padded(vocabulary: usize) -> usize {
    vocabulary.next_multiple_of(8)
}

impl DeviceMemory {
    fn new(device: &Device, dtype: DType) -> Result<Self, ModelError> {
        let random = DeviceRandom::new(device, &Specialisation::NEUTRAL)?;
        Ok(Self { device: device.clone(), random, dtype })
    }
}

impl Storage for DeviceMemory {
    type Matrix = DeviceMatrix;
    type Bias = DeviceBias;
    type Vector = DeviceBuffer<f32>;

    /// Enough for the disk and the bus.
    const SLICE: usize = 1 << 23;

    fn held(&self, _inputs: usize, _table: bool, _parts: &[StoredAs]) -> Held {
        Held::Plain(self.dtype)
    }

    /// Some products take biases in the format of their weights.
    fn bias_dtype(&self) -> DType {
        self.dtype
    }

    fn table_rows(&self, tokens: usize) -> usize {
        padded(tokens)
    }

    fn zeroed(&self, outputs: usize, inputs: usize, _held: Held) -> Result<DeviceMatrix, ModelError> {
        let matrix = DeviceMatrix::uninitialized(&self.device, outputs, inputs, self.dtype)?;
        matrix.data().fill_bytes(0)?;
        Ok(matrix)
    }

    fn fill(
        &self,
        team: &Team,
        matrix: &mut DeviceMatrix,
        first_output: usize,
        part: &Part<'_>,
    ) -> Result<(), ModelError> {
        Ok(matrix.fill(&self.random, team, first_output, part)?)
    }

    fn fill_blocks(
        &self,
        _team: &Team,
        _matrix: &mut DeviceMatrix,
        _first_output: usize,
        _outputs: usize,
        _blocks: &[u8],
    ) -> Result<(), ModelError> {
        let (expected, got) = ("numbers: a device holds no blocks".to_owned(), "blocks".to_owned());
        Err(KernelError::Invalid { op: "weights on a device", expected, got }.into())
    }

    fn random(
        &self,
        outputs: usize,
        inputs: usize,
        _held: Held,
        scale: f32,
        seed: u64,
    ) -> Result<DeviceMatrix, ModelError> {
        Ok(DeviceMatrix::random(&self.random, &self.device, outputs, inputs, self.dtype, scale, seed)?)
    }

    fn bias(&self, numbers: Vec<f32>) -> Result<DeviceBias, ModelError> {
        Ok(DeviceBias::new(&self.device, self.dtype, &numbers)?)
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<DeviceBuffer<f32>, ModelError> {
        Ok(DeviceBuffer::copy_of(&self.device, "a vector of weights", &numbers)?)
    }
}
