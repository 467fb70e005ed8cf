//! One step: passes over the batch, clipping, the optimiser, the controller.

use std::ops::Range;

use dropcap_kernels::cross_entropy::IGNORE;
use dropcap_kernels::{AdamW, adamw, sum_of_squares};

use super::{Pressure, Trainer};
use crate::TrainError;
use crate::config::{GateRule, Method, SparsityForm, Trained};
use crate::data::Batch;
use crate::network::{self, Distillation, Gradients, Group, Loss, Pruning, Pull, Teacher};
use crate::recipe::keep_ratio;

/// What a step came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Sums over the step's tokens.
    pub loss: Loss,
    /// Hard keep ratio of each layer; empty where nothing is forgotten.
    pub keep: Vec<f64>,
    /// Norm of the gradients that clipping looks at, before it.
    pub gradient_norm: f64,
    /// Norms of all gradients that are followed, of the weights and of the gates; 0 for what is not trained.
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
}

/// Trained parameters that are looked at for whether a step moves them.
const SAMPLE: usize = 4096;
/// Share of the parameters' size that a step must have to move them: a tenth of what f32 can tell apart. Those that are
/// zero are moved by anything.
const LEAST_MOVE: f64 = 6e-9;
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
        self.step_on(&batch)
    }

    /// [`Trainer::step`] on a batch of one's own.
    pub(super) fn step_on(&mut self, batch: &Batch) -> Result<Outcome, TrainError> {
        self.network.refill(&self.team, &self.values)?;
        self.gradients.fill(0.0);
        let (mut outcome, met) = self.passes(batch)?;
        self.hold_still();
        let norm = self.clipped_norm();
        outcome.gradient_norm = norm;
        let norm_of =
            |group| sum_of_squares(&self.team, &self.gradients[self.network.layout().group(group)]).sqrt();
        outcome.norms = (norm_of(Group::Weights), norm_of(Group::Gates));
        outcome.has_gates = self.config.gates.is_some();
        let all_finite = norm.is_finite()
            && outcome.norms.0.is_finite()
            && outcome.norms.1.is_finite()
            && outcome.loss.mean().is_finite();
        outcome.skipped = !all_finite;
        if all_finite {
            let before = self.sample();
            self.update(norm)?;
            outcome.moved = has_moved(&before, &self.sample());
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

    /// Forward and backward over the whole batch, a micro-batch at a time.
    fn passes(&mut self, batch: &Batch) -> Result<(Outcome, Vec<network::Pressure>), TrainError> {
        let layers = self.network.config().layers;
        let micro = self.config.batch.micro_sequences * batch.tokens;
        let parts = batch.ids.len().div_ceil(micro).max(1) as f64;
        let wanted = batch.targets.iter().filter(|&&target| target != IGNORE).count();
        let scale = 1.0 / wanted.max(1) as f32;
        let mut met = vec![network::Pressure::default(); layers];
        let mut outcome = Outcome {
            loss: Loss::default(),
            keep: Vec::new(),
            gradient_norm: 0.0,
            norms: (0.0, 0.0),
            has_gates: false,
            moved: true,
            learning_rate: self.config.optimizer.learning_rate(self.config.steps).at(self.step),
            survival: 0.0,
            skipped: false,
        };
        let centring = match &self.pressure {
            Pressure::Controlled(controller) => controller.centring(),
            _ => Vec::new(),
        };
        for (part, (ids, targets)) in batch.ids.chunks(micro).zip(batch.targets.chunks(micro)).enumerate() {
            let forgetting = self.forgetting(Some(part as u64))?;
            let pruning = forgetting.pruning();
            let pull = self.pull(&centring, batch.sequences, batch.tokens);
            let Self { team, network, values, activations, teacher, gradients, .. } = self;
            if let Some(teacher) = teacher {
                teacher.network.forward(
                    team,
                    &teacher.values,
                    &Pruning::Dense,
                    ids,
                    &mut teacher.activations,
                )?;
            }
            network.forward(team, values, &pruning, ids, activations)?;
            let distillation = teacher.as_ref().map(|teacher| Distillation {
                teacher: Teacher {
                    network: &teacher.network,
                    values: &teacher.values,
                    activations: &teacher.activations,
                },
                share: self.config.distill as f32,
            });
            outcome.survival += network.mean_survival(activations) / parts;
            let keep: Vec<f64> =
                (0..layers).map(|layer| keep_ratio(activations.expires_at(layer), batch.tokens)).collect();
            let loss = network.loss(
                team,
                values,
                targets,
                distillation,
                activations,
                Some(Gradients { scale, into: gradients }),
            )?;
            outcome.loss.add(loss);
            let more = network.backward(team, values, &pruning, pull, activations, gradients)?;
            for (met, more) in met.iter_mut().zip(more) {
                met.pull += more.pull;
                met.weight += more.weight;
            }
            if self.config.method == Method::Dcp {
                outcome.keep.resize(layers, 0.0);
                outcome.keep.iter_mut().zip(keep).for_each(|(sum, keep)| *sum += keep / parts);
            }
        }
        if self.config.gates.as_ref().is_none_or(|gates| gates.rule == GateRule::Hard) {
            outcome.survival = 0.0;
        }
        Ok((outcome, met))
    }

    /// What pulls at the gates beside the loss of the text.
    fn pull<'a>(&self, centring: &'a [f32], sequences: usize, tokens: usize) -> Pull<'a> {
        match &self.pressure {
            Pressure::None => Pull::None,
            Pressure::Controlled(_) => Pull::PerEntry(centring),
            Pressure::Gamma(gamma) => {
                let heads = self.network.gates().map_or(1, |form| form.heads);
                let lanes = (self.network.config().layers * sequences * heads) as f64;
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

    /// Takes the gradient from what is not trained.
    fn hold_still(&mut self) {
        if self.biases_are_controlled() {
            // The controller moves all biases of a layer alike; a gradient of theirs would work against it.
            for slot in self.network.layout().slots() {
                if slot.group == Group::Gates && slot.name.ends_with("bias") {
                    self.gradients[slot.range.clone()].fill(0.0);
                }
            }
        }
        if self.config.train == Trained::Gates {
            let weights = self.network.layout().group(Group::Weights);
            self.gradients[weights].fill(0.0);
        }
    }

    /// Some trained parameters, evenly spaced.
    fn sample(&self) -> Vec<f32> {
        let group = if self.config.train == Trained::Gates { Group::Gates } else { Group::Weights };
        let values = &self.values[self.network.layout().group(group)];
        let apart = values.len().div_ceil(SAMPLE).max(1);
        values.iter().step_by(apart).copied().collect()
    }

    /// The norm that is clipped: of all gradients, or, where hard gates have their own scale and rate, of the
    /// weights' alone.
    fn clipped_norm(&self) -> f64 {
        sum_of_squares(&self.team, &self.gradients[self.clipped()]).sqrt()
    }

    fn clipped(&self) -> Range<usize> {
        let layout = self.network.layout();
        if self.biases_are_controlled() { layout.group(Group::Weights) } else { 0..layout.len() }
    }

    fn update(&mut self, norm: f64) -> Result<(), TrainError> {
        self.updates += 1;
        let optimizer = &self.config.optimizer;
        let clip = if optimizer.clip > 0.0 { (optimizer.clip / (norm + NORM_EPSILON)).min(1.0) } else { 1.0 };
        let clipped = self.clipped();
        let groups = [
            (Group::Weights, optimizer.learning_rate(self.config.steps)),
            (Group::Gates, optimizer.gate_learning_rate(self.config.steps)),
        ];
        for (group, rate) in groups {
            let range = self.network.layout().group(group);
            if range.is_empty() || (group == Group::Weights && self.config.train == Trained::Gates) {
                continue;
            }
            let rule = AdamW {
                learning_rate: rate.at(self.step) as f32,
                beta1: optimizer.betas[0] as f32,
                beta2: optimizer.betas[1] as f32,
                epsilon: optimizer.epsilon as f32,
                weight_decay: optimizer.weight_decay as f32,
                step: self.updates,
                gradient_scale: if clipped.contains(&range.start) { clip as f32 } else { 1.0 },
            };
            adamw(
                &self.team,
                &rule,
                &mut self.values[range.clone()],
                &self.gradients[range.clone()],
                &mut self.first[range.clone()],
                &mut self.second[range],
            )?;
        }
        Ok(())
    }
}

fn has_moved(before: &[f32], after: &[f32]) -> bool {
    let size: f64 = before.iter().map(|&value| f64::from(value.abs())).sum();
    let moved: f64 = before.iter().zip(after).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).sum();
    moved > LEAST_MOVE * size
}
