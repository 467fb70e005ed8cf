//! A linear map on the device, with its gradients.

use std::ops::Range;

use dropcap_kernels::cuda::{DeviceBuffer, DeviceSlice};
use dropcap_kernels::matmul::{Sum, TrainMatrix};
use dropcap_kernels::{DType, KernelError, Orientation};
use dropcap_model::MatrixPlan;

use super::factors::Factors;
use super::gradients::Gradients;
use super::kernels::Kernels;
use super::place::Places;
use super::weights::Weights;
use crate::TrainError;
use crate::network::Layout;

/// `y = x W^T + b` whose W and b lie among the parameters.
#[derive(Debug)]
pub(super) struct Matrix {
    pub(super) weight: Range<usize>,
    bias: Option<Range<usize>>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    orientation: Orientation,
    /// What is added to W, which is held.
    pub(super) factors: Option<Factors>,
}

impl Matrix {
    /// The stacked matrix of a plan.
    pub(super) fn planned(plan: &MatrixPlan, layout: &Layout, places: &Places) -> Result<Self, TrainError> {
        let stretch = |names: &mut dyn Iterator<Item = &String>| -> Result<Option<Range<usize>>, TrainError> {
            let mut all: Option<Range<usize>> = None;
            for name in names {
                let next = layout.range(name)?;
                all = Some(all.map_or(next.start, |all| all.start)..next.end);
            }
            Ok(all.map(|all| places.of(&all)))
        };
        Ok(Self {
            weight: stretch(&mut plan.parts.iter().map(|part| &part.tensor))?.unwrap_or_default(),
            bias: stretch(&mut plan.bias.iter().map(|part| &part.tensor))?,
            inputs: plan.inputs,
            outputs: plan.outputs(),
            orientation: plan.parts.first().map_or(Orientation::OutputsByInputs, |part| part.orientation),
            factors: None,
        })
    }

    /// The same map with factors beside its weight.
    pub(super) fn beside(self, factors: Option<Factors>) -> Self {
        Self { factors, ..self }
    }

    /// W as products read it, `[inputs, outputs]`: with what factors add to it, until the next one is asked for.
    fn operand<'a>(
        &'a self,
        kernels: &Kernels,
        weights: &'a Weights,
    ) -> Result<TrainMatrix<'a>, KernelError> {
        match &self.factors {
            None => weights.matrix(self),
            Some(factors) => self.view(factors.merged(kernels, weights, &self.weight)?, kernels.dtype),
        }
    }

    /// `[inputs, outputs]` of numbers that lie as the weights do.
    pub(super) fn view<'a>(
        &self,
        numbers: DeviceSlice<'a, u8>,
        dtype: DType,
    ) -> Result<TrainMatrix<'a>, KernelError> {
        let (inputs, outputs) = (self.inputs, self.outputs);
        match self.orientation {
            Orientation::InputsByOutputs => TrainMatrix::new(numbers, dtype, inputs, outputs, outputs),
            Orientation::OutputsByInputs => {
                Ok(TrainMatrix::new(numbers, dtype, outputs, inputs, inputs)?.turned())
            }
        }
    }

    /// `y = x W^T + b` in the format of products, of rows without gaps.
    pub(super) fn apply(
        &self,
        kernels: &Kernels,
        weights: &Weights,
        rows: usize,
        x: &DeviceBuffer<u8>,
        y: &DeviceBuffer<u8>,
    ) -> Result<(), KernelError> {
        let bias = self.bias.as_ref().map(|bias| weights.narrow(bias)).transpose()?;
        let (x, y) = (kernels.rows(x, rows, self.inputs)?, kernels.rows(y, rows, self.outputs)?);
        kernels.products.multiply(x, self.operand(kernels, weights)?, Sum::Store, bias, y)
    }

    /// `after = before + x W^T + b`: a step of the f32 residual stream.
    pub(super) fn residual(
        &self,
        kernels: &Kernels,
        weights: &Weights,
        x: TrainMatrix<'_>,
        before: TrainMatrix<'_>,
        after: TrainMatrix<'_>,
    ) -> Result<(), KernelError> {
        let bias = self.bias.as_ref().map(|bias| weights.of(bias)).transpose()?;
        let bias = bias.map(DeviceSlice::bytes);
        kernels.products.multiply(x, self.operand(kernels, weights)?, Sum::With(before), bias, after)
    }

    /// `dx = dy W`.
    pub(super) fn input_gradient(
        &self,
        kernels: &Kernels,
        weights: &Weights,
        dy: TrainMatrix<'_>,
        dx: TrainMatrix<'_>,
    ) -> Result<(), KernelError> {
        kernels.products.multiply(dy, self.operand(kernels, weights)?.turned(), Sum::Store, None, dx)
    }

    /// Stores `x^T dy` as the gradient of W, or adds it to that, where W is trained.
    pub(super) fn weight_gradient(
        &self,
        kernels: &Kernels,
        gradients: &Gradients,
        x: TrainMatrix<'_>,
        dy: TrainMatrix<'_>,
        sum: Sum<'_>,
    ) -> Result<(), KernelError> {
        let Some(gradient) = gradients.of(&self.weight)? else { return Ok(()) };
        let (inputs, outputs) = (self.inputs, self.outputs);
        match self.orientation {
            Orientation::InputsByOutputs => {
                let gradient = TrainMatrix::f32(gradient, inputs, outputs)?;
                kernels.products.multiply(x.turned(), dy, sum, None, gradient)
            }
            Orientation::OutputsByInputs => {
                let gradient = TrainMatrix::f32(gradient, outputs, inputs)?;
                kernels.products.multiply(dy.turned(), x, sum, None, gradient)
            }
        }
    }

    /// Gradients from rows without gaps, `x` `[rows, inputs]` and `dy` `[rows, outputs]`: adds the sums over rows to those of
    /// W and b, where they are trained, or to those of the factors.
    pub(super) fn gradients(
        &self,
        kernels: &Kernels,
        gradients: &Gradients,
        rows: usize,
        x: &DeviceBuffer<u8>,
        dy: &DeviceBuffer<u8>,
        scratch: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let x = kernels.rows(x, rows, self.inputs)?;
        if let Some(factors) = &self.factors {
            return factors.gradient(kernels, gradients, rows, x, dy);
        }
        let d = kernels.rows(dy, rows, self.outputs)?;
        self.weight_gradient(kernels, gradients, x, d, gradients.sum())?;
        match &self.bias {
            None => Ok(()),
            Some(bias) => match gradients.of(bias)? {
                None => Ok(()),
                Some(bias) => kernels.sums.add_columns(rows, dy.into(), scratch, bias),
            },
        }
    }
}
