//! How well the hard policy does on held-out text.

use super::Trainer;
use crate::TrainError;
use crate::collective::{Collective, CollectiveError};
use crate::config::{Method, Pressure as Sparsity};
use crate::network::{Loss, Pruning};

/// Measured on the evenly spaced windows of the held-out files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// One per held-out file.
    pub files: Vec<FileEvaluation>,
}

/// Measured on one held-out file.
#[derive(Debug, Clone, PartialEq)]
pub struct FileEvaluation {
    /// With the policy of inference.
    pub pruned: Loss,
    /// With the same weights and nothing forgotten.
    pub dense: Loss,
    /// Keep ratio of each layer; 1 where nothing is forgotten.
    pub keep: Vec<f64>,
}

impl FileEvaluation {
    /// Adds up what the processes of a world measured on their windows.
    fn add_up(&mut self, others: &mut dyn Collective) -> Result<(), CollectiveError> {
        let mut numbers = [self.pruned.numbers(), self.dense.numbers()].concat();
        numbers.append(&mut self.keep);
        others.sum_exact(&mut numbers)?;
        self.keep = numbers.split_off(2 * Loss::NUMBERS);
        if let &[pruned, dense] = numbers.as_chunks().0 {
            (self.pruned, self.dense) = (Loss::of_numbers(pruned), Loss::of_numbers(dense));
        }
        Ok(())
    }

    /// Mean keep ratio of the layers.
    #[must_use]
    pub fn mean_keep(&self) -> f64 {
        self.keep.iter().sum::<f64>() / self.keep.len().max(1) as f64
    }
}

impl Evaluation {
    /// Perplexity per token over all files, pruned and dense.
    #[must_use]
    pub fn perplexities(&self) -> (f64, f64) {
        let (mut pruned, mut dense) = (Loss::default(), Loss::default());
        for file in &self.files {
            pruned.add(file.pruned);
            dense.add(file.dense);
        }
        (pruned.perplexity(), dense.perplexity())
    }

    /// Keep ratio of each layer, the mean of the files.
    #[must_use]
    pub fn keep(&self) -> Vec<f64> {
        let layers = self.files.first().map_or(0, |file| file.keep.len());
        let mean = |layer: usize| {
            self.files.iter().map(|file| file.keep[layer]).sum::<f64>() / self.files.len().max(1) as f64
        };
        (0..layers).map(mean).collect()
    }
}

impl Trainer {
    /// Measures the present parameters with the policy of inference, and without; each process measures its share of
    /// the windows.
    ///
    /// # Errors
    /// Tokens outside the model; a process that is lost.
    pub fn evaluate(&mut self) -> Result<Evaluation, TrainError> {
        self.backend.complete(&mut *self.others)?;
        let forgetting = self.forgetting(None)?;
        let files = self.valid.iter().map(|file| {
            let windows = file.evaluation_windows(self.config.evaluate.windows);
            let mut measured = FileEvaluation {
                pruned: Loss::default(),
                dense: Loss::default(),
                keep: vec![0.0; self.source.config().layers],
            };
            let tokens = windows.tokens;
            let share = self.others.world().share_of(windows.sequences);
            let pairs = windows.ids.chunks(tokens).zip(windows.targets.chunks(tokens));
            for (ids, targets) in pairs.skip(share.start).take(share.len()) {
                let dense = self.backend.evaluate(ids, targets, &Pruning::Dense)?;
                measured.dense.add(dense.loss);
                let pruned = match self.config.method {
                    Method::None => dense,
                    Method::Window | Method::Dcp => {
                        self.backend.evaluate(ids, targets, &forgetting.pruning())?
                    }
                };
                measured.pruned.add(pruned.loss);
                for (sum, keep) in measured.keep.iter_mut().zip(pruned.keep) {
                    *sum += keep / windows.sequences as f64;
                }
            }
            measured.add_up(&mut *self.others)?;
            Ok(measured)
        });
        Ok(Evaluation { files: files.collect::<Result<_, TrainError>>()? })
    }

    /// Moves the weight of the published sparsity term towards what meets a target keep ratio, where one is asked for.
    ///
    /// In proportion to the error, and at most by a factor of 2 at a time.
    pub(super) fn follow_target(&mut self, evaluation: &Evaluation) {
        let sparsity = self.config.sparsity.as_ref().map(crate::config::Sparsity::pressure);
        let (Some(Sparsity::Target { keep, ramp, .. }), super::Pressure::Gamma(gamma)) =
            (sparsity, &mut self.pressure)
        else {
            return;
        };
        let kept = evaluation.keep();
        if kept.is_empty() {
            return;
        }
        let kept = kept.iter().sum::<f64>() / kept.len() as f64;
        let error = kept / ramp.target(keep, self.step, self.config.steps);
        *gamma = (*gamma * error.clamp(0.5, 2.0)).clamp(1e-4, 1e4);
    }
}
