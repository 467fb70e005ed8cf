//! A decoder's weights in the memory of a device.

use dropcap_kernels::cuda::{Device, DeviceBuffer, Specialisation};
use dropcap_kernels::matmul::{DeviceBias, DeviceMatrix, DeviceRandom, MatrixFormat};
use dropcap_kernels::{DType, Part, Team};

use crate::weights::{
    Held, LayerWeights, Linear, NormWeights, Storage, StoredAs, WeightFormat, Weights, formats_by_bytes,
    rope_table,
};
use crate::{Checkpoint, DecoderConfig, ModelError};

/// The weights of a decoder on a device; norms, biases and frequencies are f32. Matrices that are not in blocks are all of
/// the dtype that activations have.
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

/// Matrices on a device.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    device: Device,
    random: DeviceRandom,
    format: WeightFormat,
    /// Of what is not in blocks.
    dtype: DType,
}

impl DeviceWeights {
    /// Reads all weights of a checkpoint and brings them to `device`, held as `format` says; `team` converts and quantises what
    /// is stored otherwise.
    ///
    /// Activations, and matrices that are not in blocks, have one dtype: bf16 beside blocks, else what `format` says, or for
    /// [`WeightFormat::Auto`] what most of the checkpoint is stored as.
    ///
    /// # Errors
    /// A weight that is not finite, or that the format could hold only as infinity; a file that became shorter or
    /// unreadable since the checkpoint was opened; too little memory on the device.
    pub fn load(
        device: &Device,
        team: &Team,
        checkpoint: &Checkpoint,
        format: impl Into<WeightFormat>,
    ) -> Result<Self, ModelError> {
        let format = format.into();
        let blocks = checkpoint.plan().matrices().any(|(plan, table)| {
            let parts: Vec<_> = plan.parts.iter().map(|part| checkpoint.stored_as(&part.tensor)).collect();
            matches!(format.held(plan.inputs, table, &parts), Held::Blocks(_))
        });
        let dtype = if blocks { DType::Bf16 } else { format.dtype().unwrap_or(checkpoint.stored_dtype()) };
        let memory = DeviceMemory::new(device, format, dtype)?;
        Ok(Self::of(&memory, checkpoint.config(), Weights::load(&memory, team, checkpoint)?))
    }

    /// Random weights of `config`'s shape, for measuring it without a checkpoint; made on the device.
    ///
    /// # Errors
    /// Too little memory on the device.
    pub fn random(
        device: &Device,
        config: &DecoderConfig,
        format: impl Into<WeightFormat>,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let format = format.into();
        let dtype = match format {
            WeightFormat::Q8 | WeightFormat::Q4 => DType::Bf16,
            WeightFormat::Auto | WeightFormat::Plain(_) => format.dtype().unwrap_or(DType::F32),
        };
        let memory = DeviceMemory::new(device, format, dtype)?;
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

    /// The dtype of activations, and of matrices that are not in blocks.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device that they lie on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How the matrices are held: names of formats, that of the most bytes first, such as `Q4_1+Q8_0`.
    #[must_use]
    pub fn formats(&self) -> String {
        formats_by_bytes(self.matrices().map(|matrix| (matrix.format().to_string(), matrix.bytes())))
    }

    /// Elements of the largest matrix in blocks, if there is one.
    pub(super) fn largest_in_blocks(&self) -> Option<usize> {
        let blocks = self.matrices().filter(|matrix| matches!(matrix.format(), MatrixFormat::Blocks(_)));
        blocks.map(|matrix| matrix.outputs() * matrix.inputs()).max()
    }

    fn matrices(&self) -> impl Iterator<Item = &DeviceMatrix> {
        let layers = self.layers.iter().flat_map(LayerWeights::linears).map(|linear| &linear.weight);
        let tables = [Some(&self.embedding), self.positions.as_ref(), self.head.as_ref()];
        layers.chain(tables.into_iter().flatten())
    }

    /// Bytes of weights that one decode step reads: all but the embedding rows it does not look up.
    #[must_use]
    pub fn streamed_bytes(&self) -> usize {
        let layers = self.layers.iter().map(LayerWeights::bytes).sum::<usize>();
        self.head().bytes() + layers
    }

    /// The output head `[v, c]`, with some rows more: see [`padded`].
    pub(super) fn head(&self) -> &DeviceMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

impl LayerWeights<DeviceMemory> {
    fn bytes(&self) -> usize {
        self.linears().iter().map(|linear| linear.weight.bytes()).sum()
    }
}

/// Outputs of a head over so many tokens: the library is slow where rows of logits do not begin at 16 bytes (GPT-2 has
/// 50257 tokens; LOG.md). Nobody reads the logits of the rows beyond.
fn padded(vocabulary: usize) -> usize {
    vocabulary.next_multiple_of(8)
}

impl DeviceMemory {
    fn new(device: &Device, format: WeightFormat, dtype: DType) -> Result<Self, ModelError> {
        let random = DeviceRandom::new(device, &Specialisation::NEUTRAL)?;
        Ok(Self { device: device.clone(), random, format, dtype })
    }
}

impl Storage for DeviceMemory {
    type Matrix = DeviceMatrix;
    type Bias = DeviceBias;
    type Vector = DeviceBuffer<f32>;

    /// Enough for the disk and the bus.
    const SLICE: usize = 1 << 23;

    fn held(&self, inputs: usize, table: bool, parts: &[StoredAs]) -> Held {
        match self.format.held(inputs, table, parts) {
            Held::Plain(_) => Held::Plain(self.dtype),
            blocks @ Held::Blocks(_) => blocks,
        }
    }

    /// Some products take biases in the format of their weights.
    fn bias_dtype(&self) -> DType {
        self.dtype
    }

    fn table_rows(&self, tokens: usize) -> usize {
        padded(tokens)
    }

    fn zeroed(&self, outputs: usize, inputs: usize, held: Held) -> Result<DeviceMatrix, ModelError> {
        match held {
            Held::Plain(dtype) => {
                let matrix = DeviceMatrix::uninitialized(&self.device, outputs, inputs, dtype)?;
                matrix.data().fill_bytes(0)?;
                Ok(matrix)
            }
            Held::Blocks(format) => Ok(DeviceMatrix::zeroed_blocks(&self.device, outputs, inputs, format)?),
        }
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
        team: &Team,
        matrix: &mut DeviceMatrix,
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
    ) -> Result<DeviceMatrix, ModelError> {
        let (random, device) = (&self.random, &self.device);
        Ok(match held {
            Held::Plain(dtype) => DeviceMatrix::random(random, device, outputs, inputs, dtype, scale, seed)?,
            Held::Blocks(format) => {
                DeviceMatrix::random_blocks(random, device, outputs, inputs, format, scale, seed)?
            }
        })
    }

    fn bias(&self, numbers: Vec<f32>) -> Result<DeviceBias, ModelError> {
        Ok(DeviceBias::new(&self.device, self.dtype, &numbers)?)
    }

    fn vector(&self, numbers: Vec<f32>) -> Result<DeviceBuffer<f32>, ModelError> {
        Ok(DeviceBuffer::copy_of(&self.device, "a vector of weights", &numbers)?)
    }
}
