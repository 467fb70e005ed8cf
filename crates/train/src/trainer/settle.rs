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

use dropcap_kernels::Team;
use dropcap_policy::Floors;

use super::{Pressure, Trainer};
use crate::TrainError;
use crate::network::{Activations, Network, Pruning};
use crate::recipe::keep_ratio;

/// A step that batches never reach, and that the probe does not look at; those before it follow where one is small.
const TEXTS_STEP: u64 = u64::MAX - 1;
/// Texts that the keep ratio is measured on.
const TEXTS: usize = 16;

/// What the layers keep with the biases that were settled on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// What each layer may keep at most.
    pub targets: Vec<f64>,
    /// What it keeps on the settling texts, measured with all layers' biases as they are written.
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
    pub(super) fn settle(&mut self, values: &[f32]) -> Result<Option<Settled>, TrainError> {
        let Pressure::Controlled(controller) = &self.pressure else { return Ok(None) };
        let targets = controller.targets(1.0);
        let trained = controller.shifts();
        self.network.refill(&self.team, values)?;
        let texts = self.settling_texts();
        let meter = self.meter(values);
        let shifts = meter.settle(&texts, &trained, &targets)?;
        let keep = meter.keep(&texts, &shifts)?;
        if let Pressure::Controlled(controller) = &mut self.pressure {
            controller.set_shifts(&shifts);
        }
        Ok(Some(Settled { targets, keep }))
    }

    fn meter<'a>(&'a self, values: &'a [f32]) -> Meter<'a> {
        let tokens = self.activations.tokens();
        Meter { team: &self.team, network: &self.network, values, floors: self.floors(), tokens }
    }

    /// What the layers keep with other shifts.
    #[cfg(test)]
    pub(super) fn keep_on_settling_texts(&self, shifts: &[f32]) -> Result<Vec<f64>, TrainError> {
        self.meter(&self.values).keep(&self.settling_texts(), shifts)
    }

    /// The texts that biases are settled on, each of a sequence's tokens.
    pub(super) fn settling_texts(&self) -> Vec<Vec<u32>> {
        let tokens = self.activations.tokens();
        let batches = (0..TEXTS as u64).flat_map(|before| {
            let ids = self.batches.batch(TEXTS_STEP - before).ids;
            ids.chunks_exact(tokens).map(<[u32]>::to_vec).collect::<Vec<_>>()
        });
        batches.take(TEXTS).collect()
    }
}

/// Measures keep ratios on fixed texts of `tokens` tokens.
struct Meter<'a> {
    team: &'a Team,
    network: &'a Network,
    values: &'a [f32],
    floors: Floors,
    tokens: usize,
}

impl Meter<'_> {
    /// Shifts at which each layer keeps at most its target if it can, with the others as they will be.
    fn settle(&self, texts: &[Vec<u32>], trained: &[f32], targets: &[f64]) -> Result<Vec<f32>, TrainError> {
        let mut activations = self.network.activations(1, self.tokens, true);
        let mut streams = Vec::with_capacity(texts.len());
        for text in texts {
            streams.push(self.network.embedded(self.values, text, &mut activations)?.to_vec());
        }
        let mut shifts = trained.to_vec();
        for (layer, &target) in targets.iter().enumerate() {
            let first = f64::from(shifts[layer]);
            let found = search::best(first, target, &mut |shift| {
                shifts[layer] = shift;
                let mut sum = 0.0;
                for stream in &streams {
                    self.layer(layer, &shifts, stream, &mut activations)?;
                    sum += keep_ratio(activations.expires_at(layer), self.tokens);
                }
                Ok(sum / texts.len().max(1) as f64)
            })?;
            shifts[layer] = found.shift as f32;
            for stream in &mut streams {
                let after = self.layer(layer, &shifts, stream, &mut activations)?.to_vec();
                *stream = after;
            }
        }
        Ok(shifts)
    }

    fn layer<'a>(
        &self,
        layer: usize,
        shifts: &[f32],
        stream: &[f32],
        activations: &'a mut Activations,
    ) -> Result<&'a [f32], TrainError> {
        let pruning = Pruning::Hard { floors: self.floors, shifts, noise: None };
        self.network.layer(self.team, self.values, &pruning, layer, stream, activations)
    }

    /// The keep ratio of each layer when all of them forget.
    fn keep(&self, texts: &[Vec<u32>], shifts: &[f32]) -> Result<Vec<f64>, TrainError> {
        let pruning = Pruning::Hard { floors: self.floors, shifts, noise: None };
        let mut activations = self.network.activations(1, self.tokens, true);
        let mut keep = vec![0.0; shifts.len()];
        for text in texts {
            self.network.forward(self.team, self.values, &pruning, text, &mut activations)?;
            for (layer, sum) in keep.iter_mut().enumerate() {
                *sum += keep_ratio(activations.expires_at(layer), self.tokens);
            }
        }
        keep.iter_mut().for_each(|sum| *sum /= texts.len().max(1) as f64);
        Ok(keep)
    }
}
