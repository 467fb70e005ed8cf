//! Thin factors beside weights that are held, on the device: see [`FactorForm`].
//!
//! Before each product that reads a weight with factors, W' = W + s B A is made for it, in memory that all such weights
//! take turns in. That costs one pass over the weight, which is little beside a product with thousands of rows, and so the
//! weight itself lies on the device once, in the format of products; the dense model beneath is the same numbers read
//! without it.

use std::ops::Range;
use std::sync::Arc;

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::matmul::{Sum, TrainMatrix};
use dropcap_kernels::{KernelError, Orientation};
use dropcap_model::{MatrixPlan, WeightPlan, peft_factor};

use super::gradients::Gradients;
use super::kernels::Kernels;
use super::place::Places;
use super::weights::Weights;
use crate::TrainError;
use crate::network::{FactorForm, Layout};

/// The factors of the parts of one stacked matrix; their `A` lie together as one matrix `[R, inputs]`.
#[derive(Debug)]
pub(super) struct Factors {
    rank: usize,
    inputs: usize,
    outputs: usize,
    orientation: Orientation,
    a: Range<usize>,
    blocks: Vec<Block>,
    /// s A in the format of products.
    narrowing: DeviceBuffer<u8>,
    room: Arc<FactorRoom>,
}

/// The part of a stack that one `B` `[outputs, r]` acts on.
#[derive(Debug)]
struct Block {
    first_output: usize,
    outputs: usize,
    b: Range<usize>,
    /// s B in the format of products.
    gathering: DeviceBuffer<u8>,
}

/// What all factors of a network take turns in.
#[derive(Debug)]
pub(super) struct FactorRoom {
    /// s for each channel of the residual stream, as kernels take a scale.
    scale: DeviceBuffer<f32>,
    /// One stack of W', in the format of products.
    merged: DeviceBuffer<u8>,
    /// What factors make of inputs and of gradients of outputs, `[t, R]` each in the format of products.
    thin: [DeviceBuffer<u8>; 2],
}

impl FactorRoom {
    /// Room for the factors of a plan at work on `rows` tokens.
    pub(super) fn new(
        kernels: &Kernels,
        form: &FactorForm,
        plan: &WeightPlan,
        [rows, hidden]: [usize; 2],
    ) -> Result<Self, KernelError> {
        let (merged, thin) = Self::sizes(form, plan);
        let thin = || kernels.room("what factors make", rows * thin);
        Ok(Self {
            scale: DeviceBuffer::copy_of(&kernels.device, "the scale of factors", &vec![form.scale; hidden])?,
            merged: kernels.room("a merged weight", merged)?,
            thin: [thin()?, thin()?],
        })
    }

    /// Numbers of the largest stack that has factors, and the most that factors make of a row.
    pub(super) fn sizes(form: &FactorForm, plan: &WeightPlan) -> (usize, usize) {
        let targets = |matrix: &MatrixPlan| {
            matrix.parts.iter().filter(|part| form.targets.contains(&part.tensor)).count()
        };
        plan.products().map(|matrix| (matrix, targets(matrix))).filter(|(_, count)| *count > 0).fold(
            (0, 0),
            |(merged, thin), (matrix, count)| {
                (merged.max(matrix.outputs() * matrix.inputs), thin.max(count * form.rank))
            },
        )
    }
}

impl Factors {
    /// The factors of a matrix of a plan, where it has any.
    pub(super) fn planned(
        kernels: &Kernels,
        form: &FactorForm,
        plan: &WeightPlan,
        matrix: &MatrixPlan,
        (layout, places): (&Layout, &Places),
        room: &Arc<FactorRoom>,
    ) -> Result<Option<Self>, TrainError> {
        let (rank, inputs) = (form.rank, matrix.inputs);
        let (mut a, mut blocks, mut first_output) = (None::<Range<usize>>, Vec::new(), 0);
        for part in &matrix.parts {
            if form.targets.contains(&part.tensor) {
                let range = layout.range(&peft_factor(plan, &part.tensor, 'A'))?;
                a = Some(a.map_or(range.start, |a| a.start)..range.end);
                blocks.push(Block {
                    first_output,
                    outputs: part.outputs,
                    b: places.of(&layout.range(&peft_factor(plan, &part.tensor, 'B'))?),
                    gathering: kernels.room("factors", part.outputs * rank)?,
                });
            }
            first_output += part.outputs;
        }
        let (Some(a), Some(part)) = (a, matrix.parts.first()) else { return Ok(None) };
        Ok(Some(Self {
            rank,
            inputs,
            outputs: first_output,
            orientation: part.orientation,
            a: places.of(&a),
            narrowing: kernels.room("factors", blocks.len() * rank * inputs)?,
            blocks,
            room: Arc::clone(room),
        }))
    }

    /// Takes the present factors.
    pub(super) fn refill(&self, kernels: &Kernels, weights: &Weights) -> Result<(), KernelError> {
        let scaled = |place: &Range<usize>, to: &DeviceBuffer<u8>| {
            let scale = Some(DeviceSlice::from(&self.room.scale));
            kernels.optimizer.split(weights.of(place)?, scale, to.into(), None)
        };
        scaled(&self.a, &self.narrowing)?;
        self.blocks.iter().try_for_each(|block| scaled(&block.b, &block.gathering))
    }

    /// Makes W' of W, which lies at `weight`; it is there until the next is made.
    pub(super) fn merged(
        &self,
        kernels: &Kernels,
        weights: &Weights,
        weight: &Range<usize>,
    ) -> Result<DeviceSlice<'_, u8>, KernelError> {
        let (rank, inputs, dtype) = (self.rank, self.inputs, kernels.dtype);
        let whole = 0..weight.len() * dtype.bytes();
        let merged = DeviceSlice::new(&self.room.merged, whole)?;
        if self.blocks.iter().map(|block| block.outputs).sum::<usize>() < self.outputs {
            self.room.merged.copy_from(0, weights.narrow(weight)?)?;
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let own_a = index * rank * inputs * dtype.bytes()..(index + 1) * rank * inputs * dtype.bytes();
            let a = DeviceSlice::new(&self.narrowing, own_a)?;
            let a = TrainMatrix::new(a, dtype, rank, inputs, inputs)?;
            let b = TrainMatrix::new(weights.narrow(&block.b)?, dtype, block.outputs, rank, rank)?;
            // A matrix that is stored turned is one part.
            let (first, left, right, rows, columns) = match self.orientation {
                Orientation::OutputsByInputs => (block.first_output * inputs, b, a, block.outputs, inputs),
                Orientation::InputsByOutputs => (0, a.turned(), b.turned(), inputs, block.outputs),
            };
            let own = first..first + rows * columns;
            let stored = weights.narrow(&(weight.start + own.start..weight.start + own.end))?;
            let stored = TrainMatrix::new(stored, dtype, rows, columns, columns)?;
            let bytes = own.start * dtype.bytes()..own.end * dtype.bytes();
            let out = DeviceSlice::new(&self.room.merged, bytes)?;
            let out = TrainMatrix::new(out, dtype, rows, columns, columns)?;
            kernels.products.multiply(left, right, Sum::With(stored), None, out)?;
        }
        Ok(merged)
    }

    /// Adds the gradients of the factors from rows without gaps, `x` `[rows, inputs]` and `dy` `[rows, outputs]`:
    /// u = x (s A)^T, dB = dy^T u, e = dy (s B), dA = e^T x.
    pub(super) fn gradient(
        &self,
        kernels: &Kernels,
        gradients: &Gradients,
        rows: usize,
        x: TrainMatrix<'_>,
        dy: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let (rank, dtype, width) = (self.rank, kernels.dtype, kernels.dtype.bytes());
        let (products, inner) = (&kernels.products, self.blocks.len() * self.rank);
        let [u, e] = &self.room.thin;
        let a = kernels.rows(&self.narrowing, inner, self.inputs)?;
        products.multiply(x, a.turned(), Sum::Store, None, kernels.rows(u, rows, inner)?)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let columns = DeviceSlice::new(dy, block.first_output * width..rows * self.outputs * width)?;
            let dy = TrainMatrix::new(columns, dtype, rows, block.outputs, self.outputs)?;
            let b = kernels.rows(&block.gathering, block.outputs, rank)?;
            let [u, e] = [u, e].map(|thin| {
                let columns = DeviceSlice::new(thin, index * rank * width..rows * inner * width)?;
                TrainMatrix::new(columns, dtype, rows, rank, inner)
            });
            products.multiply(dy, b, Sum::Store, None, e?)?;
            if let Some(gradient) = gradients.of(&block.b)? {
                let gradient = TrainMatrix::f32(gradient, block.outputs, rank)?;
                products.multiply(dy.turned(), u?, Sum::Add, None, gradient)?;
            }
        }
        match gradients.of(&self.a)? {
            None => Ok(()),
            Some(gradient) => {
                let e = kernels.rows(e, rows, inner)?;
                let gradient = TrainMatrix::f32(gradient, inner, self.inputs)?;
                products.multiply(e.turned(), x, Sum::Add, None, gradient)
            }
        }
    }
}
