//! A training, step by step: the model, its gates, the optimiser and the controller, as a function of the configuration
//! and the step.

mod adapter;
mod card;
mod choose;
mod companions;
mod company;
mod confound;
mod evaluate;
mod examine;
mod gates;
mod plan;
mod replace;
mod result;
mod run;
mod score;
mod settle;
mod start;
mod state;
mod step;
mod subset;
mod teacher;
#[cfg(test)]
mod tests;
mod vitals;
mod watchdog;

use std::time::Duration;

use dropcap_kernels::AlphaSigmoid;
use dropcap_policy::Floors;

pub use confound::confounders;
pub use evaluate::Evaluation;
pub use examine::{Examined, examine};
pub use plan::Plan;
pub use result::Finished;
pub use run::{Finish, run};
pub use score::score;
pub use settle::Settled;
pub use start::{Source, Texts};
pub use step::Outcome;

use crate::TrainError;
use crate::backend::Backend;
use crate::collective::Collective;
use crate::config::{Config, GateRule, Method};
use crate::data::Batches;
use crate::network::{GateForm, Noise, Pruning};
use crate::recipe::Controller;
use crate::select::Account;

/// A model that is being trained.
///
/// Everything that a later step depends on is either in the configuration or saved with the state: the numbers of
/// step n are the same bits whether or not the run was interrupted before it.
#[derive(Debug)]
pub struct Trainer {
    config: Config,
    source: Source,
    /// What holds the parameters and computes.
    backend: Box<dyn Backend>,
    /// Tokens T of a sequence.
    tokens: usize,
    /// The form of the gates, if there are any.
    gates: Option<GateForm>,
    pressure: Pressure,
    /// What each layer's gates multiply their input's channels by; empty for nothing.
    scales: Vec<Vec<f32>>,
    batches: Batches,
    valid: Vec<Batches>,
    /// The processes that take every step together with this one.
    others: Box<dyn Collective>,
    /// Steps taken, and how many of them changed the parameters.
    step: u64,
    updates: u64,
    /// Steps in a row that were skipped.
    skipped: u64,
    /// What examples were chosen once, in words.
    subset: Option<String>,
    /// What was chosen of each file batch by batch, and how long that took in this process.
    accounts: Vec<Account>,
    choosing: Duration,
}

/// The sharpness of soft gates without a schedule: where the published one ends.
const FINAL_ALPHA: f64 = 8.0;

/// What makes the gates refuse.
#[derive(Debug, Clone, PartialEq)]
enum Pressure {
    /// There are no gates.
    None,
    /// A term of the loss of this weight.
    Gamma(f64),
    /// Hard gates under a controller.
    Controlled(Controller),
}

impl Trainer {
    /// Steps taken.
    #[must_use]
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// What is being trained.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Share of the run that lies behind.
    fn progress(&self) -> f64 {
        self.step as f64 / self.config.steps.max(1) as f64
    }

    /// What no vote touches.
    fn floors(&self) -> Floors {
        let gates = self.config.gates.as_ref();
        gates.map(|gates| Floors { sinks: gates.sinks, recent: gates.recent }).unwrap_or_default()
    }
}

/// What a pass needs to know of its pruning, owned.
#[derive(Debug)]
struct Forgetting {
    method: Method,
    windows: Vec<Floors>,
    floors: Floors,
    curve: Option<AlphaSigmoid>,
    shifts: Vec<f32>,
    noise: Option<Noise>,
}

impl Forgetting {
    /// As the network takes it.
    fn pruning(&self) -> Pruning<'_> {
        match (self.method, &self.curve) {
            (Method::None, _) => Pruning::Dense,
            (Method::Window, _) => Pruning::Windows { floors: &self.windows },
            (Method::Dcp, Some(curve)) => Pruning::Soft { curve, in_depth: false, floors: self.floors },
            (Method::Dcp, None) => {
                Pruning::Hard { floors: self.floors, shifts: &self.shifts, noise: self.noise }
            }
        }
    }
}

impl Trainer {
    /// How this step's passes forget; `draw` tells apart the passes of a step, `None` is the policy of inference.
    fn forgetting(&self, draw: Option<u64>) -> Result<Forgetting, TrainError> {
        let layers = self.source.config().layers;
        let window = self.config.window.clone().unwrap_or_default();
        let mut forgetting = Forgetting {
            method: self.config.method,
            windows: vec![Floors { sinks: window.sinks, recent: window.recent }; layers],
            floors: self.floors(),
            curve: None,
            shifts: match &self.pressure {
                Pressure::Controlled(controller) => controller.shifts(),
                _ => Vec::new(),
            },
            noise: None,
        };
        let (Some(gates), Some(draw)) = (&self.config.gates, draw) else { return Ok(forgetting) };
        match gates.rule {
            GateRule::Soft => {
                let alpha = gates.alpha.as_ref().map_or(FINAL_ALPHA, |alpha| alpha.at(self.step));
                forgetting.curve = Some(AlphaSigmoid::new(alpha)?);
            }
            GateRule::Hard | GateRule::Birth => {
                let scale = gates.noise.as_ref().map_or(0.0, |noise| noise.at(self.step, self.config.steps));
                let seed = self.config.seed ^ (self.step << 20 | draw).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                forgetting.noise = (scale > 0.0).then_some(Noise { scale: scale as f32, seed });
            }
        }
        Ok(forgetting)
    }
}
