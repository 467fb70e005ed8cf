//! The last touch on hard gates: biases at which the finished model keeps what was asked for.
//!
//! The controller steers by one batch at a time. Where many scores of a layer are nearly equal, its keep ratio jumps at
//! that score from one step to the next, and which side the last step left it on is chance. After training nothing moves
//! any more, so the shifts are searched for on several texts at once, always ending on the side that keeps no more than
//! the target.
//!
//! What a layer forgets changes what the layers above it see, and nothing else. So the layers are settled from the lowest
//! to the highest, each on the residual stream that the settled ones below it leave: it is then measured as it will run.
//! That takes no longer than to measure all of them at once, because each trial computes one layer.

mod search;

use super::{Pressure, Trainer};
use crate::TrainError;
use crate::network::Pruning;

/// A step that batches never reach, and that the probe does not look at; those before it follow where one is small.
const TEXTS_STEP: u64 = u64::MAX - 1;
/// Texts that the keep ratio is measured on.
const TEXTS: usize = 16;

/// What the layers keep with the biases that were settled on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// What each layer may keep at most.
    pub targets: Vec<f64>,
    /// What it keeps on the settling texts, measured with the biases of it and of those below it as they are written.
    pub keep: Vec<f64>,
}

impl Settled {
    /// One sentence for each layer that keeps more than its target whatever its bias.
    #[must_use]
    pub fn out_of_reach(&self) -> Vec<String> {
        let pairs = self.keep.iter().zip(&self.targets).enumerate();
        let missed = pairs.filter(|(_, (keep, target))| keep > target);
        missed
            .map(|(layer, (keep, target))| {
                format!(
                    "layer {layer} keeps {keep:.4} of the entries, and at most {target:.4} was asked for: no bias makes it keep less (floors alone may keep more: lower gates.sinks or gates.recent, or raise sparsity.target_keep)"
                )
            })
            .collect()
    }
}

impl Trainer {
    /// Moves the shifts of controlled gates so that no layer keeps more than its target on texts of the training data,
    /// and measures what they keep then; `None` where no controller moves biases.
    ///
    /// A layer that cannot reach its target is brought as near as it comes. The same state gives the same shifts.
    ///
    /// # Errors
    /// Tokens outside the model.
    pub(super) fn settle(&mut self) -> Result<Option<Settled>, TrainError> {
        let Pressure::Controlled(controller) = &self.pressure else { return Ok(None) };
        let targets = controller.settled_targets();
        let mut shifts = controller.shifts();
        self.backend.enter(&self.settling_texts())?;
        let mut keep = vec![0.0; shifts.len()];
        for (layer, &target) in targets.iter().enumerate() {
            let first = f64::from(shifts[layer]);
            let found = search::best(first, target, &mut |shift| {
                shifts[layer] = shift;
                self.climb(layer, &shifts, false)
            })?;
            shifts[layer] = found.shift as f32;
            keep[layer] = self.climb(layer, &shifts, true)?;
        }
        if let Pressure::Controlled(controller) = &mut self.pressure {
            controller.set_shifts(&shifts);
        }
        Ok(Some(Settled { targets, keep }))
    }

    /// What a layer keeps of the entered texts under these shifts, the layers below it under those that they were left with.
    fn climb(&mut self, layer: usize, shifts: &[f32], advance: bool) -> Result<f64, TrainError> {
        let pruning = Pruning::Hard { floors: self.floors(), shifts, noise: None };
        self.backend.climb(layer, &pruning, advance)
    }

    /// What the layers keep with other shifts.
    #[cfg(test)]
    pub(super) fn keep_on_settling_texts(&mut self, shifts: &[f32]) -> Result<Vec<f64>, TrainError> {
        self.backend.enter(&self.settling_texts())?;
        (0..shifts.len()).map(|layer| self.climb(layer, shifts, true)).collect()
    }

    /// The texts that biases are settled on, each of a sequence's tokens.
    pub(super) fn settling_texts(&self) -> Vec<Vec<u32>> {
        let tokens = self.tokens;
        let batches = (0..TEXTS as u64).flat_map(|before| {
            let ids = self.batches.batch(TEXTS_STEP - before).ids;
            ids.chunks_exact(tokens).map(<[u32]>::to_vec).collect::<Vec<_>>()
        });
        batches.take(TEXTS).collect()
    }
}
