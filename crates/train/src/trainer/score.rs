//! What each example is worth, for who chooses among them.
//!
//! As in DEALRec (arXiv 2401.17197) an example has an influence and an effort. The effort is the norm of its loss's gradient.
//! The influence there is that of removing it on the loss of all, with the inverse Hessian of a small surrogate model; here the
//! gradients are those of the model that will learn, and the Hessian is taken for the identity: the gradient of the example
//! times the mean of all examples' gradients.

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::cuda::Device;

use super::run::tell_borders;
use super::{Source, Trainer};
use crate::TrainError;
use crate::backend::Pass;
use crate::collective::Alone;
use crate::config::{Config, Method};
use crate::metrics::{Report, Scores};
use crate::network::{Pruning, Pull};

/// Scores every example of the training files of a configuration by the gradients of what it trains, nothing forgotten.
/// `progress` hears of examples that are done, twice over their number in all.
///
/// # Errors
/// Those of the run before its first step; files that hold texts.
pub fn score(
    config: &Config,
    source: Source,
    device: Option<&Device>,
    report: &mut dyn Report,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Scores, TrainError> {
    let mut config = config.clone();
    (config.method, config.gates, config.sparsity, config.distill) = (Method::None, None, None, 0.0);
    (config.batch.sequences, config.batch.micro_sequences) = (1, 1);
    (config.data.select, config.data.scores) = (None, None);
    config.data.valid.clear();
    tell_borders(&source, report);
    let texts = source.texts(&config, true, &mut |prepared| report.prepared(&prepared))?;
    let mut scores = Scores::of(source.identity()?, &config.data.train, texts.train.shards())?;
    let total = scores.examples() as u64;
    let mut trainer = Trainer::new(&config, source, texts, device, &mut |what| report.told(what))?;
    let mut mean = vec![0.0_f64; trainer.backend.layout().trained().len()];
    for example in 0..total {
        trainer.example_gradient(example)?;
        for (sum, &gradient) in mean.iter_mut().zip(trainer.backend.gradients()?.iter()) {
            *sum += f64::from(gradient) / total.max(1) as f64;
        }
        progress(example + 1, 2 * total);
    }
    for example in 0..total {
        trainer.example_gradient(example)?;
        let gradients = trainer.backend.gradients()?;
        let dot = |numbers: &mut dyn Iterator<Item = f64>| -> f64 {
            gradients.iter().zip(numbers).map(|(&gradient, number)| f64::from(gradient) * number).sum()
        };
        scores.influence.push(dot(&mut mean.iter().copied()));
        scores.effort.push(dot(&mut gradients.iter().map(|&gradient| f64::from(gradient))).sqrt());
        progress(total + example + 1, 2 * total);
    }
    Ok(scores)
}

impl Trainer {
    /// The gradient of one example's mean loss, as far as a window shows it.
    fn example_gradient(&mut self, example: u64) -> Result<(), TrainError> {
        let batch = self.batches.example(example);
        let wanted = batch.targets.iter().filter(|&&target| target != IGNORE).count();
        self.backend.pass(&Pass {
            ids: &batch.ids,
            targets: &batch.targets,
            pruning: &Pruning::Dense,
            pull: Pull::None,
            scale: 1.0 / wanted.max(1) as f32,
            distill: 0.0,
            part: 0,
            parts: 1,
        })?;
        self.backend.gather(&[], &mut Alone)?;
        Ok(())
    }
}
