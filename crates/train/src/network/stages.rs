//! The forward pass a layer at a time, for who tries a layer's pruning more than once on the same input.

use dropcap_kernels::Team;

use super::Network;
use super::activations::Activations;
use super::pruning::Pruning;
use crate::TrainError;

impl Network {
    /// The residual stream of `ids` `[b, T]` before the first layer, `[t, c]`.
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn embedded<'a>(
        &self,
        values: &[f32],
        ids: &[u32],
        activations: &'a mut Activations,
    ) -> Result<&'a [f32], TrainError> {
        self.embed(values, ids, activations)?;
        Ok(&activations.residual[0])
    }

    /// Runs one layer on the residual stream before it and gives that after it, both `[t, c]`: the bits that
    /// [`Network::forward`] computes there. What the layer forgot is in [`Activations::expires_at`].
    ///
    /// # Errors
    /// A layer that is not there, a stream that is not of these activations' rows.
    pub fn layer<'a>(
        &self,
        team: &Team,
        values: &[f32],
        pruning: &Pruning<'_>,
        layer: usize,
        stream: &[f32],
        activations: &'a mut Activations,
    ) -> Result<&'a [f32], TrainError> {
        match activations.residual.get_mut(layer) {
            Some(before) if layer < self.layers.len() && before.len() == stream.len() => {
                before.copy_from_slice(stream);
            }
            _ => {
                let what = format!("layer {layer} of {} on {} numbers", self.layers.len(), stream.len());
                return Err(TrainError::Internal { what });
            }
        }
        self.layer_forward(team, values, pruning, layer, activations)?;
        Ok(&activations.residual[layer + 1])
    }
}
