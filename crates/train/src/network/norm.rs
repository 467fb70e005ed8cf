//! A norm in training.

use std::ops::Range;

use dropcap_kernels::{Team, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
use dropcap_model::{Norm, NormKind, NormPlan};

use super::parameters::{Layout, TrainedGradients};
use crate::TrainError;

/// A norm over the residual stream whose weight (and bias) lie in the parameter array.
#[derive(Debug)]
pub(super) struct NormSlots {
    weight: Range<usize>,
    bias: Range<usize>,
    norm: Norm,
}

impl NormSlots {
    pub(super) fn planned(plan: &NormPlan, norm: Norm, layout: &Layout) -> Result<Self, TrainError> {
        let weight = layout.range(&plan.weight.tensor)?;
        let bias = plan.bias.as_ref().map(|part| layout.range(&part.tensor)).transpose()?.unwrap_or_default();
        Ok(Self { weight, bias, norm })
    }

    pub(super) fn apply(
        &self,
        team: &Team,
        values: &[f32],
        x: &[f32],
        out: &mut [f32],
    ) -> Result<(), TrainError> {
        let weight = &values[self.weight.clone()];
        match self.norm.kind {
            NormKind::LayerNorm => {
                layer_norm(team, x, weight, &values[self.bias.clone()], self.norm.epsilon, out)?;
            }
            NormKind::RmsNorm => rms_norm(team, x, weight, self.norm.epsilon, out)?,
        }
        Ok(())
    }

    /// Adds to `dx`, and to the gradients of weight and bias unless they are held.
    pub(super) fn backward(
        &self,
        team: &Team,
        values: &[f32],
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        gradients: &mut TrainedGradients<'_>,
    ) -> Result<(), TrainError> {
        let (weight, epsilon) = (&values[self.weight.clone()], self.norm.epsilon);
        // A bias stands right behind its weight in the layout.
        let both = self.weight.start..self.weight.end + self.bias.len();
        let mut unwanted = Vec::new();
        let both = gradients.of(&both).unwrap_or_else(|| {
            unwanted.resize(both.len(), 0.0);
            &mut unwanted
        });
        let (dweight, dbias) = both.split_at_mut(weight.len());
        match self.norm.kind {
            NormKind::LayerNorm => layer_norm_backward(team, x, weight, epsilon, dy, dx, dweight, dbias)?,
            NormKind::RmsNorm => rms_norm_backward(team, x, weight, epsilon, dy, dx, dweight)?,
        }
        Ok(())
    }
}
