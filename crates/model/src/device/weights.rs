//! A decoder's weights in the memory of a device.

use dropcap_kernels::cuda::{Device, DeviceBuffer, Specialisation};
use dropcap_kernels::matmul::{DeviceBias, DeviceMatrix, DeviceRandom};
use dropcap_kernels::{DType, Orientation, Part, Team, TensorBytes};

use crate::decoder::rope_table;
use crate::{
    Checkpoint, DecoderConfig, LayerPlan, MatrixPlan, ModelError, NormKind, NormPlan, Position, VectorPart,
};

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
    pub(super) layers: Vec<LayerWeights>,
    pub(super) final_norm: DeviceNormWeights,
    pub(super) head: Option<DeviceMatrix>,
}

#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) attention_norm: DeviceNormWeights,
    pub(super) qkv: DeviceLinear,
    pub(super) query_norm: Option<DeviceBuffer<f32>>,
    pub(super) key_norm: Option<DeviceBuffer<f32>>,
    pub(super) output: DeviceLinear,
    pub(super) mlp_norm: DeviceNormWeights,
    pub(super) up: DeviceLinear,
    pub(super) down: DeviceLinear,
}

/// `y = x W^T + bias` on the device.
#[derive(Debug)]
pub(super) struct DeviceLinear {
    pub(super) weight: DeviceMatrix,
    pub(super) bias: Option<DeviceBias>,
}

/// The weights of one norm: a bias makes it a LayerNorm.
#[derive(Debug)]
pub(super) struct DeviceNormWeights {
    pub(super) weight: DeviceBuffer<f32>,
    pub(super) bias: Option<DeviceBuffer<f32>>,
}

impl DeviceWeights {
    /// Reads all weights of a checkpoint and brings them to `device` as `dtype`; `team` converts what is stored otherwise.
    ///
    /// # Errors
    /// A file that became shorter or unreadable since the checkpoint was opened; too little memory on the device.
    pub fn load(
        device: &Device,
        team: &Team,
        checkpoint: &Checkpoint,
        dtype: DType,
    ) -> Result<Self, ModelError> {
        let (config, plan) = (checkpoint.config(), checkpoint.plan());
        let random = DeviceRandom::new(device, &Specialisation::NEUTRAL)?;
        let mut loader = Loader { device, team, random, checkpoint, dtype, bytes: Vec::new() };
        Ok(Self {
            embedding: loader.table(&plan.embedding)?,
            positions: plan.positions.as_ref().map(|plan| loader.matrix(plan)).transpose()?,
            rope: rope_table(config).map(|table| (table.inv_freq, table.attention_scaling)),
            layers: plan.layers.iter().map(|plan| loader.layer(plan)).collect::<Result<_, _>>()?,
            final_norm: loader.norm(&plan.final_norm)?,
            head: plan.head.as_ref().map(|plan| loader.table(plan)).transpose()?,
            device: device.clone(),
            config: config.clone(),
            dtype,
        })
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
        let random = DeviceRandom::new(device, &Specialisation::NEUTRAL)?;
        let mut source = Random { random, device, dtype, seed };
        let (hidden, vocabulary) = (config.hidden, config.vocabulary);
        let layer = |source: &mut Random<'_>| -> Result<LayerWeights, ModelError> {
            let head_norm = || config.qk_norm.then(|| ones(device, config.head_dim)).transpose();
            let qkv = config.query_width() + 2 * config.key_width();
            Ok(LayerWeights {
                attention_norm: random_norm(device, config)?,
                qkv: source.linear(qkv, hidden, config.attention_bias)?,
                query_norm: head_norm()?,
                key_norm: head_norm()?,
                output: source.linear(hidden, config.query_width(), config.output_bias)?,
                mlp_norm: random_norm(device, config)?,
                up: source.linear(config.up_width(), hidden, config.mlp_bias)?,
                down: source.linear(hidden, config.intermediate, config.mlp_bias)?,
            })
        };
        let positions = config.position == Position::Learned;
        Ok(Self {
            embedding: source.matrix(padded(vocabulary), hidden)?,
            positions: positions.then(|| source.matrix(config.max_positions, hidden)).transpose()?,
            rope: rope_table(config).map(|table| (table.inv_freq, table.attention_scaling)),
            layers: (0..config.layers).map(|_| layer(&mut source)).collect::<Result<_, _>>()?,
            final_norm: random_norm(device, config)?,
            head: (!config.tied_embeddings).then(|| source.matrix(padded(vocabulary), hidden)).transpose()?,
            device: device.clone(),
            config: config.clone(),
            dtype,
        })
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
        self.head().data.bytes() + layers
    }

    /// The output head `[v, c]`, with some rows more: see [`padded`].
    pub(super) fn head(&self) -> &DeviceMatrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

impl LayerWeights {
    fn bytes(&self) -> usize {
        let matrices = [&self.qkv, &self.output, &self.up, &self.down];
        matrices.iter().map(|linear| linear.weight.data.bytes()).sum()
    }
}

/// Outputs of a head over so many tokens: the library is slow where rows of logits do not begin at 16 bytes (GPT-2 has
/// 50257 tokens; LOG.md). The rows beyond are zeros, and nobody reads their logits.
fn padded(vocabulary: usize) -> usize {
    vocabulary.next_multiple_of(8)
}

struct Loader<'a> {
    device: &'a Device,
    team: &'a Team,
    random: DeviceRandom,
    checkpoint: &'a Checkpoint,
    dtype: DType,
    /// The stored rows at hand.
    bytes: Vec<u8>,
}

/// Numbers that are read at a time where rows are outputs: enough for the disk and the bus.
const SLICE: usize = 1 << 23;

impl Loader<'_> {
    fn layer(&mut self, plan: &LayerPlan) -> Result<LayerWeights, ModelError> {
        Ok(LayerWeights {
            attention_norm: self.norm(&plan.attention_norm)?,
            qkv: self.linear(&plan.qkv)?,
            query_norm: self.vector(plan.query_norm.as_ref())?,
            key_norm: self.vector(plan.key_norm.as_ref())?,
            output: self.linear(&plan.output)?,
            mlp_norm: self.norm(&plan.mlp_norm)?,
            up: self.linear(&plan.up)?,
            down: self.linear(&plan.down)?,
        })
    }

    fn linear(&mut self, plan: &MatrixPlan) -> Result<DeviceLinear, ModelError> {
        let bias = self.checkpoint.read_vectors(&plan.bias)?;
        let bias = (!bias.is_empty()).then(|| DeviceBias::new(self.device, self.dtype, &bias));
        Ok(DeviceLinear { weight: self.matrix(plan)?, bias: bias.transpose()? })
    }

    fn matrix(&mut self, plan: &MatrixPlan) -> Result<DeviceMatrix, ModelError> {
        let matrix = DeviceMatrix::uninitialized(self.device, plan.outputs(), plan.inputs, self.dtype)?;
        self.fill(plan, matrix)
    }

    /// A matrix with an output for every token.
    fn table(&mut self, plan: &MatrixPlan) -> Result<DeviceMatrix, ModelError> {
        let outputs = padded(plan.outputs());
        let matrix = DeviceMatrix::uninitialized(self.device, outputs, plan.inputs, self.dtype)?;
        matrix.data.fill_bytes(0)?;
        self.fill(plan, matrix)
    }

    fn fill(&mut self, plan: &MatrixPlan, matrix: DeviceMatrix) -> Result<DeviceMatrix, ModelError> {
        let mut first_output = 0;
        for part in &plan.parts {
            // Only whole outputs can be stored; GPT-2's `[inputs, outputs]` tensors are turned whole.
            let (rows, step) = match part.orientation {
                Orientation::OutputsByInputs => (part.outputs, (SLICE / plan.inputs).max(1)),
                Orientation::InputsByOutputs => (plan.inputs, plan.inputs),
            };
            for first in (0..rows).step_by(step) {
                let slice = first..rows.min(first + step);
                let outputs = if step == rows { part.outputs } else { slice.len() };
                let dtype = self.checkpoint.read_rows(&part.tensor, slice, &mut self.bytes)?;
                let source = TensorBytes { dtype, bytes: &self.bytes };
                let part = Part { source, orientation: part.orientation, outputs };
                matrix.fill(&self.random, self.team, first_output, &part)?;
                first_output += outputs;
            }
        }
        Ok(matrix)
    }

    fn vector(&self, plan: Option<&VectorPart>) -> Result<Option<DeviceBuffer<f32>>, ModelError> {
        plan.map(|part| self.upload(&self.checkpoint.read_vectors([part])?)).transpose()
    }

    fn norm(&self, plan: &NormPlan) -> Result<DeviceNormWeights, ModelError> {
        let weight = self.upload(&self.checkpoint.read_vectors([&plan.weight])?)?;
        let bias = match self.checkpoint.config().norm.kind {
            NormKind::LayerNorm => Some(self.upload(&self.checkpoint.read_vectors(&plan.bias)?)?),
            NormKind::RmsNorm => None,
        };
        Ok(DeviceNormWeights { weight, bias })
    }

    fn upload(&self, numbers: &[f32]) -> Result<DeviceBuffer<f32>, ModelError> {
        Ok(DeviceBuffer::copy_of(self.device, "a vector of weights", numbers)?)
    }
}

struct Random<'a> {
    random: DeviceRandom,
    device: &'a Device,
    dtype: DType,
    seed: u64,
}

impl Random<'_> {
    fn matrix(&mut self, outputs: usize, inputs: usize) -> Result<DeviceMatrix, ModelError> {
        self.seed = self.seed.wrapping_add(1);
        Ok(DeviceMatrix::random(&self.random, self.device, outputs, inputs, self.dtype, 0.02, self.seed)?)
    }

    fn linear(&mut self, outputs: usize, inputs: usize, bias: bool) -> Result<DeviceLinear, ModelError> {
        let bias = bias.then(|| DeviceBias::new(self.device, self.dtype, &vec![0.0; outputs])).transpose()?;
        Ok(DeviceLinear { weight: self.matrix(outputs, inputs)?, bias })
    }
}

fn ones(device: &Device, width: usize) -> Result<DeviceBuffer<f32>, ModelError> {
    Ok(DeviceBuffer::copy_of(device, "a vector of weights", &vec![1.0; width])?)
}

fn random_norm(device: &Device, config: &DecoderConfig) -> Result<DeviceNormWeights, ModelError> {
    let layer_norm = config.norm.kind == NormKind::LayerNorm;
    let bias = layer_norm.then(|| DeviceBuffer::zeroed(device, "a vector of weights", config.hidden));
    Ok(DeviceNormWeights { weight: ones(device, config.hidden)?, bias: bias.transpose()? })
}
