//! One step: passes over the batch, clipping, the optimiser, the controller.

use dropcap_kernels::AdamW;
use dropcap_kernels::cross_entropy::IGNORE;

use super::start::biases_are_controlled;
use super::{Pressure, Trainer};
use crate::TrainError;
use crate::backend::{Followed, Following, Gathered, Pass};
use crate::config::{GateRule, Method, SparsityForm, Trained};
use crate::data::Batch;
use crate::network::{Group, Loss, Pull};
use crate::select::Account;

/// What a step came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Sums over the step's tokens.
    pub loss: Loss,
    /// Hard keep ratio of each layer; empty where nothing is forgotten.
    pub keep: Vec<f64>,
    /// Norm of the gradients that clipping looks at, before it.
    pub gradient_norm: f64,
    /// Norms of all gradients that are followed, of the weights (or their factors) and of the gates; 0 for what is not
    /// trained.
    pub norms: (f64, f64),
    /// Whether there are gates.
    pub has_gates: bool,
    /// Whether the step was large enough to see, of some thousand trained parameters; true where it was skipped.
    pub moved: bool,
    /// The rate of the model's weights.
    pub learning_rate: f64,
    /// The published sparsity term's mean of I; 0 without soft gates.
    pub survival: f64,
    /// Whether the loss or a gradient was not finite, so that nothing changed.
    pub skipped: bool,
    /// What of each file's examples in the batch was learned, where that is chosen batch by batch.
    pub chosen: Option<Vec<Account>>,
}

impl Trainer {
    /// Takes one step.
    ///
    /// A step whose loss or gradients are not finite changes no parameter.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] after too many such steps in a row; tokens outside the model.
    pub fn step(&mut self) -> Result<Outcome, TrainError> {
        let batch = self.batches.batch(self.step);
        let (batch, chosen) = self.chosen(batch)?;
        if let Some(chosen) = &chosen {
            self.accounts.iter_mut().zip(chosen).for_each(|(sum, more)| sum.add(more));
        }
        Ok(Outcome { chosen, ..self.step_on(&batch)? })
    }

    /// [`Trainer::step`] on a batch of one's own.
    pub(super) fn step_on(&mut self, batch: &Batch) -> Result<Outcome, TrainError> {
        self.passes(batch)?;
        let ranges = self.ranges();
        let following = Following { ranges: &ranges, clip: self.config.optimizer.clip };
        let gathered = self.backend.follow(&following, &mut *self.others)?;
        let Gathered { loss, keep, survival, met, squares, skipped, moved } = gathered;
        let norm = |counts: &dyn Fn(usize, &Followed) -> bool| {
            let all = ranges.iter().enumerate().zip(&squares);
            let squares = all.filter(|&((number, followed), _)| counts(number, followed)).map(|(_, x)| x);
            squares.sum::<f64>().sqrt()
        };
        let has_soft_gates = self.config.gates.as_ref().is_some_and(|gates| gates.rule == GateRule::Soft);
        let outcome = Outcome {
            loss,
            keep: if self.config.method == Method::Dcp { keep } else { Vec::new() },
            gradient_norm: norm(&|_, followed| followed.is_clipped),
            norms: (norm(&|number, _| number == 0), norm(&|number, _| number == 1)),
            has_gates: self.config.gates.is_some(),
            moved,
            learning_rate: self.config.optimizer.learning_rate(self.config.steps).at(self.step),
            survival: if has_soft_gates { survival } else { 0.0 },
            skipped,
            chosen: None,
        };
        if skipped {
            self.skipped += 1;
            if self.skipped > self.config.watchdog.skip_steps {
                return Err(TrainError::Diverged { step: self.step, skipped: self.skipped });
            }
        } else {
            self.updates += 1;
            if let Pressure::Controlled(controller) = &mut self.pressure {
                controller.observe(self.step as f64 / self.config.steps.max(1) as f64, &outcome.keep, &met);
            }
            self.skipped = 0;
        }
        self.step += 1;
        Ok(outcome)
    }

    /// Forward and backward over this process's share of the batch, a micro-batch at a time.
    fn passes(&mut self, batch: &Batch) -> Result<(), TrainError> {
        let micro = self.config.batch.micro_sequences * batch.tokens;
        let parts = batch.ids.len().div_ceil(micro).max(1);
        let wanted = batch.targets.iter().filter(|&&target| target != IGNORE).count();
        let scale = 1.0 / wanted.max(1) as f32;
        let centring = match &self.pressure {
            Pressure::Controlled(controller) => controller.centring(),
            _ => Vec::new(),
        };
        let share = self.others.world().share_of(parts);
        let passes = batch.ids.chunks(micro).zip(batch.targets.chunks(micro)).enumerate();
        for (number, (ids, targets)) in passes.skip(share.start).take(share.len()) {
            // Noise is drawn by the number among all of the step's passes, whichever process runs it.
            let forgetting = self.forgetting(Some(number as u64))?;
            let pull = self.pull(&centring, batch.sequences, batch.tokens);
            self.backend.pass(&Pass {
                ids,
                targets,
                pruning: &forgetting.pruning(),
                pull,
                scale,
                distill: self.config.distill as f32,
                part: number - share.start,
                parts,
            })?;
        }
        Ok(())
    }

    /// What pulls at the gates beside the loss of the text.
    fn pull<'a>(&self, centring: &'a [f32], sequences: usize, tokens: usize) -> Pull<'a> {
        match &self.pressure {
            Pressure::None => Pull::None,
            Pressure::Controlled(_) => Pull::PerEntry(centring),
            Pressure::Gamma(gamma) => {
                let heads = self.gates.map_or(1, |form| form.heads);
                let lanes = (self.source.config().layers * sequences * heads) as f64;
                let square = (tokens.saturating_sub(1) * tokens).max(1) as f64;
                let form = self.config.sparsity.as_ref().and_then(|sparsity| sparsity.form);
                let (pairs, last_query) = match form.unwrap_or(SparsityForm::Published) {
                    SparsityForm::Published => (square, false),
                    // n (n - 1) / 2 pairs of a query and an earlier entry.
                    SparsityForm::Paper => (square / 2.0, true),
                };
                Pull::PerPair { weight: (gamma / (lanes * pairs)) as f32, last_query }
            }
        }
    }

    /// What is trained, weights (or their factors) first and gates second, and how each follows its gradient at this step: all are
    /// clipped together, unless hard gates have their own scale and rate.
    fn ranges(&self) -> [Followed; 2] {
        let (layout, optimizer) = (self.backend.layout(), &self.config.optimizer);
        let followed = match self.config.train {
            Trained::All => layout.group(Group::Weights),
            Trained::Gates => layout.len()..layout.len(),
            Trained::Lora => layout.group(Group::Factors),
        };
        let groups = [
            (followed, optimizer.learning_rate(self.config.steps), true),
            (
                layout.group(Group::Gates),
                optimizer.gate_learning_rate(self.config.steps),
                !biases_are_controlled(&self.config),
            ),
        ];
        groups.map(|(range, rate, is_clipped)| {
            let rule = AdamW {
                learning_rate: rate.at(self.step) as f32,
                beta1: optimizer.betas[0] as f32,
                beta2: optimizer.betas[1] as f32,
                epsilon: optimizer.epsilon as f32,
                weight_decay: optimizer.weight_decay as f32,
                step: self.updates + 1,
                gradient_scale: 1.0,
            };
            Followed { rule: Some(rule).filter(|_| !range.is_empty()), range, is_clipped }
        })
    }
}
