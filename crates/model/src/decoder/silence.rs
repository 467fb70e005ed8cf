//! A model of which some heads are silent: what they are for shows in what is missing.

use std::sync::Arc;

use super::Decoder;
use crate::ModelError;

impl Decoder {
    /// The same model, whose weights it shares, in which some query heads, each a layer and a head of it, add nothing to the
    /// residual stream; they attend, and policies see them, as ever.
    ///
    /// As Retrieval Head masks heads (Wu et al. 2024, arXiv 2404.15574): their output is zero, and a bias of the output map stays.
    ///
    /// # Errors
    /// A head that the model does not have.
    pub fn without_heads(&self, heads: &[(usize, usize)]) -> Result<Self, ModelError> {
        let (layers, width) = (self.config.layers, self.config.heads);
        let mut silenced = self.silenced.clone();
        silenced.resize(layers, Vec::new());
        for &(layer, head) in heads {
            match silenced.get_mut(layer).filter(|_| head < width) {
                Some(silent) if silent.contains(&head) => {}
                Some(silent) => silent.push(head),
                None => return Err(ModelError::NoSuchHead { layer, head, layers, heads: width }),
            }
        }
        let (config, weights, rope) = (self.config.clone(), Arc::clone(&self.weights), self.rope.clone());
        Ok(Self { config, weights, rope, silenced })
    }

    /// Zeroes what silent heads of a layer found, in attention's output `[t, h d]`.
    pub(super) fn silence(&self, layer: usize, mixed: &mut [f32]) {
        let Some(silent) = self.silenced.get(layer).filter(|silent| !silent.is_empty()) else { return };
        let width = self.config.head_dim;
        for row in mixed.chunks_exact_mut(self.config.query_width()) {
            for head in silent {
                row[head * width..][..width].fill(0.0);
            }
        }
    }
}
