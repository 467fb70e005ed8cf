//! Thin factors beside a weight that is held (LoRA: Hu et al. 2021, arXiv 2106.09685).
//!
//! The weight of a step is W' = W + s B A, made anew from the present factors and rounded as a merged adapter is, so the
//! forward pass is that of inference, and the gradient of the input goes through W' too. The gradients of the factors
//! are thin products, u = x A^T, dB = s dy^T u, e = dy B, dA = s e^T x; that of W' is never made.

use std::ops::Range;
use std::sync::Mutex;

use dropcap_kernels::{
    Columns, DType, Epilogue, Orientation, PackedMatrix, Part, Team, TensorBytes, matmul, transposed_product,
};
use dropcap_model::{LowRank, MatrixPlan, WeightPlan, peft_factor};

use super::parameters::{Group, Layout, TrainedGradients};
use crate::TrainError;

/// Numbers of a weight that one task merges.
const PIECE: usize = 1 << 16;

/// Which weights have factors, and of which form.
#[derive(Debug, Clone, PartialEq)]
pub struct FactorForm {
    /// Inner width r.
    pub rank: usize,
    /// s: what the product of the factors is multiplied by.
    pub scale: f32,
    /// The stored tensors that have factors.
    pub targets: Vec<String>,
}

/// The factors of the parts of one stacked matrix, each `A` `[r, inputs]` and `B` `[outputs, r]`.
///
/// The parts' `A` are neighbours in the layout, so together they are one matrix `[R, inputs]`; their `B` act on other
/// outputs each, so together they are one matrix `[outputs, R]` with blocks on its diagonal.
#[derive(Debug)]
pub(super) struct Factors {
    rank: usize,
    scale: f32,
    inputs: usize,
    outputs: usize,
    orientation: Orientation,
    a: Range<usize>,
    blocks: Vec<Block>,
    /// All `A`, `[R, inputs]`.
    narrowing: PackedMatrix,
    /// All `B` turned, `[R, outputs]`.
    gathering: PackedMatrix,
}

/// The part of a stack that one `B` acts on.
#[derive(Debug)]
struct Block {
    first_output: usize,
    outputs: usize,
    b: Range<usize>,
}

impl FactorForm {
    /// Appends the factors of every target to a layout, matrix by matrix, under PEFT's names.
    pub(super) fn add(&self, layout: &mut Layout, plan: &WeightPlan) {
        for matrix in plan.products() {
            let parts = || matrix.parts.iter().filter(|part| self.targets.contains(&part.tensor));
            for part in parts() {
                let name = peft_factor(plan, &part.tensor, 'A');
                layout.add(name, vec![self.rank, matrix.inputs], Group::Factors);
            }
            for part in parts() {
                let name = peft_factor(plan, &part.tensor, 'B');
                layout.add(name, vec![part.outputs, self.rank], Group::Factors);
            }
        }
    }
}

impl Factors {
    /// The factors of a matrix of a plan, where the layout has any.
    pub(super) fn planned(
        form: &FactorForm,
        plan: &WeightPlan,
        matrix: &MatrixPlan,
        layout: &Layout,
    ) -> Result<Option<Self>, TrainError> {
        let (mut a, mut blocks, mut first_output) = (None::<Range<usize>>, Vec::new(), 0);
        for part in &matrix.parts {
            if form.targets.contains(&part.tensor) {
                let range = layout.range(&peft_factor(plan, &part.tensor, 'A'))?;
                a = Some(a.map_or(range.start, |a| a.start)..range.end);
                let b = layout.range(&peft_factor(plan, &part.tensor, 'B'))?;
                blocks.push(Block { first_output, outputs: part.outputs, b });
            }
            first_output += part.outputs;
        }
        let (Some(a), Some(part)) = (a, matrix.parts.first()) else { return Ok(None) };
        let (inputs, outputs, inner) = (matrix.inputs, first_output, blocks.len() * form.rank);
        Ok(Some(Self {
            rank: form.rank,
            scale: form.scale,
            inputs,
            outputs,
            orientation: part.orientation,
            a,
            blocks,
            narrowing: PackedMatrix::zeroed(inner, inputs, DType::F32)?,
            gathering: PackedMatrix::zeroed(inner, outputs, DType::F32)?,
        }))
    }

    /// Packs the present factors, and gives the weight with their products added.
    pub(super) fn merge(
        &mut self,
        team: &Team,
        values: &[f32],
        stored: &[f32],
    ) -> Result<Vec<f32>, TrainError> {
        let mut gathered = vec![0.0; self.gathering.outputs() * self.outputs];
        for (index, block) in self.blocks.iter().enumerate() {
            for (output, row) in values[block.b.clone()].chunks_exact(self.rank).enumerate() {
                for (k, &value) in row.iter().enumerate() {
                    gathered[(index * self.rank + k) * self.outputs + block.first_output + output] = value;
                }
            }
        }
        let packs = [(&mut self.narrowing, &values[self.a.clone()]), (&mut self.gathering, &gathered[..])];
        for (pack, numbers) in packs {
            let source = TensorBytes { dtype: DType::F32, bytes: bytemuck::cast_slice(numbers) };
            let (orientation, outputs) = (Orientation::OutputsByInputs, pack.outputs());
            pack.fill(team, 0, &Part { source, orientation, outputs })?;
        }
        let mut merged = stored.to_vec();
        for (index, block) in self.blocks.iter().enumerate() {
            let a = &values[self.a.clone()][index * self.rank * self.inputs..][..self.rank * self.inputs];
            let product = LowRank {
                a: a.into(),
                b: (&values[block.b.clone()]).into(),
                rank: self.rank,
                inputs: self.inputs,
                orientation: self.orientation,
                scale: self.scale,
            };
            // A matrix that is stored turned is one part.
            let (first, rows, width) = match self.orientation {
                Orientation::OutputsByInputs => {
                    (block.first_output * self.inputs, block.outputs, self.inputs)
                }
                Orientation::InputsByOutputs => (0, self.inputs, block.outputs),
            };
            add(team, &product, width, &mut merged[first..first + rows * width]);
        }
        Ok(merged)
    }

    /// Adds the gradients of the factors, of inputs `x` `[t, inputs]` and the gradient of outputs `dy` `[t, outputs]`.
    pub(super) fn gradient(
        &self,
        team: &Team,
        x: &[f32],
        dy: &[f32],
        gradients: &mut TrainedGradients<'_>,
    ) -> Result<(), TrainError> {
        let inner = self.narrowing.outputs();
        let rows = x.len() / self.inputs;
        let scaled = |x: &[f32], pack: &PackedMatrix| -> Result<Vec<f32>, TrainError> {
            let mut out = vec![0.0; rows * inner];
            matmul(team, x, pack, None, Epilogue::Store, &mut out)?;
            out.iter_mut().for_each(|value| *value *= self.scale);
            Ok(out)
        };
        let (u, e) = (scaled(x, &self.narrowing)?, scaled(dy, &self.gathering)?);
        let whole = |data, stride| Columns { data, stride, first: 0, width: stride };
        if let Some(gradient) = gradients.of(&self.a) {
            transposed_product(team, whole(&e, inner), whole(x, self.inputs), gradient)?;
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let dy =
                Columns { data: dy, stride: self.outputs, first: block.first_output, width: block.outputs };
            let u = Columns { data: &u, stride: inner, first: index * self.rank, width: self.rank };
            if let Some(gradient) = gradients.of(&block.b) {
                transposed_product(team, dy, u, gradient)?;
            }
        }
        Ok(())
    }
}

/// Adds a product to all rows of a weight, on all threads.
fn add(team: &Team, product: &LowRank<'_>, width: usize, weight: &mut [f32]) {
    let rows = (PIECE / width).max(1);
    let pieces: Vec<_> = weight.chunks_mut(rows * width).map(Mutex::new).collect();
    team.run(pieces.len(), &|task| {
        // Each task has its own piece, so nobody waits and no lock is poisoned.
        let Ok(mut piece) = pieces[task].lock() else { return };
        let (first, count) = (task * rows, piece.len() / width);
        product.add_to_rows(first..first + count, &mut piece);
    });
}
