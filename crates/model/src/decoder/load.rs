//! A decoder from a checkpoint: a few rows of a stored tensor in memory at a time, packed as soon as they are read.

use dropcap_kernels::{DType, Orientation, PackedMatrix, Part, RopeTable, Team, TensorBytes};

use super::{Decoder, DecoderLayer, Linear, NormWeights};
use crate::{
    Checkpoint, DecoderConfig, LayerPlan, MatrixPlan, ModelError, NormKind, NormPlan, Position, VectorPart,
};

impl Decoder {
    /// Reads and packs all weights as `dtype`.
    ///
    /// Memory peaks at the packed weights plus a few MiB; only GPT-2's `[inputs, outputs]` matrices are read whole.
    ///
    /// # Errors
    /// A file that became shorter or unreadable since the checkpoint was opened.
    pub fn load(team: &Team, checkpoint: &Checkpoint, dtype: DType) -> Result<Self, ModelError> {
        let (config, plan) = (checkpoint.config(), checkpoint.plan());
        let mut loader = Loader { team, checkpoint, dtype, bytes: Vec::new() };
        Ok(Decoder {
            embedding: loader.matrix(&plan.embedding)?,
            positions: plan.positions.as_ref().map(|plan| loader.matrix(plan)).transpose()?,
            rope: rope_table(config),
            layers: plan.layers.iter().map(|plan| loader.layer(plan)).collect::<Result<_, _>>()?,
            final_norm: loader.norm(&plan.final_norm)?,
            head: plan.head.as_ref().map(|plan| loader.matrix(plan)).transpose()?,
            config: config.clone(),
        })
    }
}

/// The frequencies of a family that rotates.
pub(crate) fn rope_table(config: &DecoderConfig) -> Option<RopeTable> {
    match config.position {
        Position::Learned => None,
        Position::Rope(rope) => {
            let (inv_freq, attention_scaling) = rope.frequencies(config.head_dim);
            Some(RopeTable { inv_freq, attention_scaling })
        }
    }
}

struct Loader<'a> {
    team: &'a Team,
    checkpoint: &'a Checkpoint,
    dtype: DType,
    /// The stored rows at hand.
    bytes: Vec<u8>,
}

/// Numbers that are read at a time where rows are outputs: enough for the disk and the threads, little beside the
/// weights. Reading a large embedding whole would add a third to the peak of a small model.
const SLICE: usize = 1 << 21;

impl Loader<'_> {
    fn layer(&mut self, plan: &LayerPlan) -> Result<DecoderLayer, ModelError> {
        Ok(DecoderLayer {
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

    fn linear(&mut self, plan: &MatrixPlan) -> Result<Linear, ModelError> {
        let bias = self.checkpoint.read_vectors(&plan.bias)?;
        Ok(Linear { weight: self.matrix(plan)?, bias: (!bias.is_empty()).then_some(bias) })
    }

    fn matrix(&mut self, plan: &MatrixPlan) -> Result<PackedMatrix, ModelError> {
        let mut matrix = PackedMatrix::zeroed(plan.outputs(), plan.inputs, self.dtype)?;
        let mut first_output = 0;
        for part in &plan.parts {
            let orientation = part.orientation;
            // Only whole outputs can be packed.
            let (rows, step) = match orientation {
                Orientation::OutputsByInputs => (part.outputs, (SLICE / plan.inputs).max(1)),
                Orientation::InputsByOutputs => (plan.inputs, plan.inputs),
            };
            for first in (0..rows).step_by(step) {
                let slice = first..rows.min(first + step);
                let outputs = if step == rows { part.outputs } else { slice.len() };
                let dtype = self.checkpoint.read_rows(&part.tensor, slice, &mut self.bytes)?;
                let source = TensorBytes { dtype, bytes: &self.bytes };
                matrix.fill(self.team, first_output, &Part { source, orientation, outputs })?;
                first_output += outputs;
            }
        }
        Ok(matrix)
    }

    fn vector(&self, plan: Option<&VectorPart>) -> Result<Option<Vec<f32>>, ModelError> {
        plan.map(|part| self.checkpoint.read_vectors([part])).transpose()
    }

    fn norm(&self, plan: &NormPlan) -> Result<NormWeights, ModelError> {
        let norm = self.checkpoint.config().norm;
        let (weight, epsilon) = (self.checkpoint.read_vectors([&plan.weight])?, norm.epsilon);
        Ok(match norm.kind {
            NormKind::LayerNorm => {
                NormWeights::Layer { weight, bias: self.checkpoint.read_vectors(&plan.bias)?, epsilon }
            }
            NormKind::RmsNorm => NormWeights::Rms { weight, epsilon },
        })
    }
}
