//! A linear map in training: packed both ways, with its gradients.

use std::ops::Range;

use dropcap_kernels::{
    Columns, DType, Epilogue, Orientation, PackedMatrix, Part, Team, TensorBytes, column_sums, matmul,
    transposed_product,
};
use dropcap_model::{MatrixPlan, WeightPlan};

use super::factors::{FactorForm, Factors};
use super::parameters::{Layout, TrainedGradients};
use crate::TrainError;

/// `y = x W^T + b` whose W and b lie in the parameter array.
///
/// Weights change at every step, so they are packed once a step, as they are for `y` and turned for the gradient of
/// `x`. Both packs together are as large as the weights twice; a product is worth thousands of times the packing.
#[derive(Debug)]
pub(super) struct Matrix {
    weight: Range<usize>,
    bias: Option<Range<usize>>,
    inputs: usize,
    outputs: usize,
    orientation: Orientation,
    /// What each input is multiplied by before W, `[inputs]`.
    input_scale: Option<Vec<f32>>,
    /// What is added to a weight that is held.
    factors: Option<Factors>,
    /// Whether the packs hold a weight that never changes.
    settled: bool,
    forward: PackedMatrix,
    /// None where nothing goes back.
    backward: Option<PackedMatrix>,
}

impl Matrix {
    /// The stacked matrix of a plan, whose parts are neighbours in the layout.
    pub(super) fn planned(plan: &MatrixPlan, layout: &Layout) -> Result<Self, TrainError> {
        let stretch = |names: &mut dyn Iterator<Item = &String>| -> Result<Option<Range<usize>>, TrainError> {
            let mut all: Option<Range<usize>> = None;
            for name in names {
                let next = layout.range(name)?;
                match &mut all {
                    None => all = Some(next),
                    Some(all) if all.end == next.start => all.end = next.end,
                    Some(_) => {
                        return Err(TrainError::Internal { what: format!("{name} is not beside its stack") });
                    }
                }
            }
            Ok(all)
        };
        let weight = stretch(&mut plan.parts.iter().map(|part| &part.tensor))?.unwrap_or_default();
        let bias = stretch(&mut plan.bias.iter().map(|part| &part.tensor))?;
        let orientation = plan.parts.first().map_or(Orientation::OutputsByInputs, |part| part.orientation);
        Self::new(weight, bias, plan.outputs(), plan.inputs, orientation)
    }

    /// A matrix at a place of the array.
    pub(super) fn new(
        weight: Range<usize>,
        bias: Option<Range<usize>>,
        outputs: usize,
        inputs: usize,
        orientation: Orientation,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            weight,
            bias,
            inputs,
            outputs,
            orientation,
            input_scale: None,
            factors: None,
            settled: false,
            forward: PackedMatrix::zeroed(outputs, inputs, DType::F32)?,
            backward: Some(PackedMatrix::zeroed(inputs, outputs, DType::F32)?),
        })
    }

    /// From now on its inputs are first multiplied by `scale`; for `[outputs, inputs]` only.
    pub(super) fn rescale(&mut self, scale: Vec<f32>) {
        self.input_scale = Some(scale);
    }

    /// From now on the factors of a layout that belong to its plan are added to its weight.
    pub(super) fn add_factors(
        &mut self,
        form: &FactorForm,
        plan: &WeightPlan,
        matrix: &MatrixPlan,
        layout: &Layout,
    ) -> Result<(), TrainError> {
        self.factors = Factors::planned(form, plan, matrix, layout)?;
        Ok(())
    }

    /// From now on it is packed for forward passes alone.
    pub(super) fn forward_only(&mut self) {
        self.backward = None;
    }

    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Packs the present values; a weight that is held, and has no factors, once.
    pub(super) fn refill(
        &mut self,
        team: &Team,
        values: &[f32],
        trained: &Range<usize>,
    ) -> Result<(), TrainError> {
        if self.settled {
            return Ok(());
        }
        self.settled = self.factors.is_none() && self.weight.end <= trained.start;
        let stored = &values[self.weight.clone()];
        let changed: Vec<f32>;
        let numbers = match (&self.input_scale, &mut self.factors) {
            (None, None) => stored,
            (_, Some(factors)) => {
                changed = factors.merge(team, values, stored)?;
                &changed
            }
            (Some(scale), None) => {
                changed = stored.chunks_exact(self.inputs).flat_map(|row| times(row, scale)).collect();
                &changed
            }
        };
        let source = TensorBytes { dtype: DType::F32, bytes: bytemuck::cast_slice(numbers) };
        let turned = match self.orientation {
            Orientation::OutputsByInputs => Orientation::InputsByOutputs,
            Orientation::InputsByOutputs => Orientation::OutputsByInputs,
        };
        self.forward.fill(team, 0, &Part { source, orientation: self.orientation, outputs: self.outputs })?;
        if let Some(backward) = &mut self.backward {
            backward.fill(team, 0, &Part { source, orientation: turned, outputs: self.inputs })?;
        }
        Ok(())
    }

    /// `out = epilogue(x W^T + b)`.
    pub(super) fn apply(
        &self,
        team: &Team,
        values: &[f32],
        x: &[f32],
        epilogue: Epilogue,
        out: &mut [f32],
    ) -> Result<(), TrainError> {
        let bias = self.bias.clone().map(|bias| &values[bias]);
        Ok(matmul(team, x, &self.forward, bias, epilogue, out)?)
    }

    /// `dx = dy W`, stored or added.
    pub(super) fn input_gradient(
        &self,
        team: &Team,
        dy: &[f32],
        epilogue: Epilogue,
        dx: &mut [f32],
    ) -> Result<(), TrainError> {
        let Some(backward) = &self.backward else {
            return Err(TrainError::Internal {
                what: "a gradient through a network that only goes forward".into(),
            });
        };
        Ok(matmul(team, dy, backward, None, epilogue, dx)?)
    }

    /// Adds `dy^T x` and the column sums of `dy` to the gradients of W and b, unless they are held; then to those of
    /// its factors.
    pub(super) fn weight_gradient(
        &self,
        team: &Team,
        x: &[f32],
        dy: &[f32],
        gradients: &mut TrainedGradients<'_>,
    ) -> Result<(), TrainError> {
        if let Some(factors) = &self.factors {
            return factors.gradient(team, x, dy, gradients);
        }
        let x = Columns { data: x, stride: self.inputs, first: 0, width: self.inputs };
        let dy = Columns { data: dy, stride: self.outputs, first: 0, width: self.outputs };
        if let Some(bias) = self.bias.as_ref().and_then(|bias| gradients.of(bias)) {
            column_sums(team, dy, bias)?;
        }
        let Some(gradient) = gradients.of(&self.weight) else { return Ok(()) };
        match (&self.input_scale, self.orientation) {
            (None, Orientation::OutputsByInputs) => transposed_product(team, dy, x, gradient)?,
            (None, Orientation::InputsByOutputs) => transposed_product(team, x, dy, gradient)?,
            (Some(scale), _) => {
                let mut unscaled = vec![0.0; gradient.len()];
                transposed_product(team, dy, x, &mut unscaled)?;
                for (to, row) in
                    gradient.chunks_exact_mut(self.inputs).zip(unscaled.chunks_exact(self.inputs))
                {
                    to.iter_mut().zip(times(row, scale)).for_each(|(to, add)| *to += add);
                }
            }
        }
        Ok(())
    }
}

fn times<'a>(row: &'a [f32], scale: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    row.iter().zip(scale).map(|(x, s)| x * s)
}
