//! One step: passes over the batch, clipping, the optimiser, the controller.

use std::ops::Range;

use dropcap_kernels::AdamW;
use dropcap_kernels::cross_entropy::IGNORE;

use super::start::biases_are_controlled;
use super::{Pressure, Trainer};
use crate::TrainError;
use crate::backend::{Gathered, Pass};
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

/// What torch adds to a norm that it divides by.
const NORM_EPSILON: f64 = 1e-6;

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
        let layout = self.backend.layout();
        let ranges = [self.clipped(), self.followed(), layout.group(Group::Gates)];
        let Gathered { loss, keep, survival, met, squares } =
            self.backend.gather(&ranges, &mut *self.others)?;
        let norm = |range: usize| squares.get(range).map_or(0.0, |squares| squares.sqrt());
        let has_soft_gates = self.config.gates.as_ref().is_some_and(|gates| gates.rule == GateRule::Soft);
        let mut outcome = Outcome {
            loss,
            keep: if self.config.method == Method::Dcp { keep } else { Vec::new() },
            gradient_norm: norm(0),
            norms: (norm(1), norm(2)),
            has_gates: self.config.gates.is_some(),
            moved: true,
            learning_rate: self.config.optimizer.learning_rate(self.config.steps).at(self.step),
            survival: if has_soft_gates { survival } else { 0.0 },
            skipped: false,
            chosen: None,
        };
        let all_finite = outcome.gradient_norm.is_finite()
            && outcome.norms.0.is_finite()
            && outcome.norms.1.is_finite()
            && outcome.loss.mean().is_finite();
        outcome.skipped = !all_finite;
        if all_finite {
            outcome.moved = self.update(outcome.gradient_norm)?;
            if let Pressure::Controlled(controller) = &mut self.pressure {
                controller.observe(self.step as f64 / self.config.steps.max(1) as f64, &outcome.keep, &met);
            }
            self.skipped = 0;
        } else {
            self.skipped += 1;
            if self.skipped > self.config.watchdog.skip_steps {
                return Err(TrainError::Diverged { step: self.step, skipped: self.skipped });
            }
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

    /// What is clipped together: all gradients, or, where hard gates have their own scale and rate, the others alone.
    fn clipped(&self) -> Range<usize> {
        if biases_are_controlled(&self.config) { self.followed() } else { self.backend.layout().trained() }
    }

    /// What is trained beside the gates.
    fn followed(&self) -> Range<usize> {
        let layout = self.backend.layout();
        match self.config.train {
            Trained::All => layout.group(Group::Weights),
            Trained::Gates => layout.len()..layout.len(),
            Trained::Lora => layout.group(Group::Factors),
        }
    }

    fn update(&mut self, norm: f64) -> Result<bool, TrainError> {
        self.updates += 1;
        let optimizer = &self.config.optimizer;
        let clip = if optimizer.clip > 0.0 { (optimizer.clip / (norm + NORM_EPSILON)).min(1.0) } else { 1.0 };
        let clipped = self.clipped();
        let groups = [
            (self.followed(), optimizer.learning_rate(self.config.steps)),
            (self.backend.layout().group(Group::Gates), optimizer.gate_learning_rate(self.config.steps)),
        ];
        let mut rules = Vec::new();
        for (range, rate) in groups.into_iter().filter(|(range, _)| !range.is_empty()) {
            let rule = AdamW {
                learning_rate: rate.at(self.step) as f32,
                beta1: optimizer.betas[0] as f32,
                beta2: optimizer.betas[1] as f32,
                epsilon: optimizer.epsilon as f32,
                weight_decay: optimizer.weight_decay as f32,
                step: self.updates,
                gradient_scale: if clipped.contains(&range.start) { clip as f32 } else { 1.0 },
            };
            rules.push((range, rule));
        }
        self.backend.update(&rules)
    }
}
