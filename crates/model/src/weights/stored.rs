//! Weights from a checkpoint.

use dropcap_kernels::{BlockFormat, DType, Orientation, Part, Team, TensorBytes};

use super::range::{first_bad_scale, first_of, first_outside};
use super::{BiasOf, Held, MatrixOf, Source, Storage, VectorOf};
use crate::{Checkpoint, MatrixPart, MatrixPlan, ModelError, VectorPart};

pub(super) struct Stored<'a, S> {
    storage: &'a S,
    team: &'a Team,
    checkpoint: &'a Checkpoint,
    /// The stored rows at hand.
    bytes: Vec<u8>,
}

impl<'a, S: Storage> Stored<'a, S> {
    pub(super) fn new(storage: &'a S, team: &'a Team, checkpoint: &'a Checkpoint) -> Self {
        Self { storage, team, checkpoint, bytes: Vec::new() }
    }

    /// Fills the outputs of one stored tensor, slice by slice: reading a large embedding whole would add a third to
    /// the peak of a small model.
    fn fill(
        &mut self,
        matrix: &mut S::Matrix,
        first_output: usize,
        plan: &MatrixPart,
        inputs: usize,
        held: Held,
    ) -> Result<(), ModelError> {
        if let (Held::Blocks(format), Some(stored)) = (held, self.checkpoint.blocks(&plan.tensor))
            && format == stored
        {
            return self.fill_blocks(matrix, first_output, plan, inputs, format);
        }
        let target = match held {
            Held::Plain(dtype) => dtype,
            // The format of scales and least values.
            Held::Blocks(_) => DType::F16,
        };
        // Only whole outputs can be stored; GPT-2's `[inputs, outputs]` tensors are turned whole.
        let (rows, step) = match plan.orientation {
            Orientation::OutputsByInputs => (plan.outputs, (S::SLICE / inputs).max(1)),
            Orientation::InputsByOutputs => (inputs, inputs),
        };
        let width = plan.outputs * inputs / rows;
        for first in (0..rows).step_by(step) {
            let slice = first..rows.min(first + step);
            let whole = slice.len() == rows;
            let dtype = self.checkpoint.read_rows(&plan.tensor, slice.clone(), &mut self.bytes)?;
            let source = TensorBytes { dtype, bytes: &self.bytes };
            if let Some((at, value)) = first_outside(self.team, source, target) {
                return Err(self.checkpoint.outside(&plan.tensor, first * width + at, value, target));
            }
            let outputs = if whole { plan.outputs } else { slice.len() };
            let part = Part { source, orientation: plan.orientation, outputs };
            self.storage.fill(self.team, matrix, first_output + if whole { 0 } else { first }, &part)?;
        }
        Ok(())
    }

    /// The same with blocks that stay as they are: always whole outputs, whichever way round the plan has them.
    fn fill_blocks(
        &mut self,
        matrix: &mut S::Matrix,
        first_output: usize,
        plan: &MatrixPart,
        inputs: usize,
        format: BlockFormat,
    ) -> Result<(), ModelError> {
        let step = (S::SLICE / inputs).max(1);
        for first in (0..plan.outputs).step_by(step) {
            let slice = first..plan.outputs.min(first + step);
            self.checkpoint.read_blocks(&plan.tensor, slice.clone(), &mut self.bytes)?;
            if let Some((block, value)) = first_bad_scale(format, &self.bytes) {
                return Err(self.checkpoint.outside(
                    &plan.tensor,
                    first * inputs + block * 32,
                    value,
                    DType::F32,
                ));
            }
            self.storage.fill_blocks(self.team, matrix, first_output + first, slice.len(), &self.bytes)?;
        }
        Ok(())
    }

    /// The numbers of one vector, all of which `target` can hold.
    fn read(&self, part: &VectorPart, target: DType) -> Result<Vec<f32>, ModelError> {
        let numbers = self.checkpoint.read_vectors([part])?;
        match first_of(&numbers, target) {
            Some((at, value)) => Err(self.checkpoint.outside(&part.tensor, at, value, target)),
            None => Ok(numbers),
        }
    }
}

impl<S: Storage> Source for Stored<'_, S> {
    type Storage = S;

    fn matrix(
        &mut self,
        plan: &MatrixPlan,
        outputs: usize,
        table: bool,
    ) -> Result<MatrixOf<Self>, ModelError> {
        let parts: Vec<_> = plan.parts.iter().map(|part| self.checkpoint.stored_as(&part.tensor)).collect();
        let held = self.storage.held(plan.inputs, table, &parts);
        let mut matrix = self.storage.zeroed(outputs, plan.inputs, held)?;
        let mut first_output = 0;
        for part in &plan.parts {
            self.fill(&mut matrix, first_output, part, plan.inputs, held)?;
            first_output += part.outputs;
        }
        Ok(matrix)
    }

    fn bias(&mut self, parts: &[VectorPart]) -> Result<BiasOf<Self>, ModelError> {
        let mut numbers = Vec::new();
        for part in parts {
            numbers.extend(self.read(part, self.storage.bias_dtype())?);
        }
        self.storage.bias(numbers)
    }

    fn vector(&mut self, part: &VectorPart, _untrained: f32) -> Result<VectorOf<Self>, ModelError> {
        self.storage.vector(self.read(part, DType::F32)?)
    }

    fn storage(&self) -> &S {
        self.storage
    }
}
