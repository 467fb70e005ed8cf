//! How much is to be forgotten.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::choices::SparsityForm;

/// The pressure on the gates, as the keys give it; [`Sparsity::pressure`] says what it means.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sparsity {
    /// The weight of the sparsity term in the loss; this or `target_keep`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
    /// The form of gamma's term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<SparsityForm>,
    /// The share of entries that the hard policy is to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_keep: Option<f64>,
    /// The share that training leads to, where that is not what is kept in the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_keep: Option<f64>,
    /// When the target falls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// How the target is shared out among the layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Budgets>,
}

/// The stretch of a run, as shares of its steps, over which the target falls from 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ramp {
    /// Where it begins to fall.
    pub from: f64,
    /// Where it is reached.
    pub until: f64,
}

/// How a target is shared out among layers at the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Value")]
pub enum Budgets {
    /// By a word.
    Word(BudgetWord),
    /// The share that each layer is to keep, in proportion.
    Prior(Vec<f64>),
}

/// The words of [`Budgets`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BudgetWord {
    /// In proportion to what a few forward passes say that each layer needs.
    Probe,
    /// Alike.
    Uniform,
}

/// What presses entries out.
#[derive(Debug, Clone, PartialEq)]
pub enum Pressure {
    /// A term of the loss with a fixed weight.
    Gamma {
        /// The weight.
        gamma: f64,
        /// The form of the term.
        form: SparsityForm,
    },
    /// A controller that meets a target.
    Target {
        /// The share of entries kept at the end.
        keep: f64,
        /// The share that training leads to before biases are settled at that one.
        trained: f64,
        /// When the target falls.
        ramp: Ramp,
        /// How it is shared out.
        budgets: Budgets,
    },
}

/// The target where neither gamma nor a target is given.
pub(super) const DEFAULT_KEEP: f64 = 0.2;

impl Sparsity {
    /// What presses entries out.
    pub fn pressure(&self) -> Pressure {
        match self.gamma {
            Some(gamma) => Pressure::Gamma { gamma, form: self.form.unwrap_or(SparsityForm::Published) },
            None => Pressure::Target {
                keep: self.target_keep.unwrap_or(DEFAULT_KEEP),
                trained: self.trained_keep.or(self.target_keep).unwrap_or(DEFAULT_KEEP),
                ramp: self.ramp.unwrap_or_default(),
                budgets: self.budgets.clone().unwrap_or_default(),
            },
        }
    }

    /// Writes the defaults of what applies into the keys.
    pub(super) fn fill(&mut self) {
        match self.pressure() {
            Pressure::Gamma { form, .. } => self.form = Some(form),
            Pressure::Target { keep, ramp, budgets, .. } => {
                (self.target_keep, self.ramp, self.budgets) = (Some(keep), Some(ramp), Some(budgets));
            }
        }
    }
}

impl Ramp {
    /// The target at a step of so many: geometric from 1 to `keep` over the ramp.
    pub fn target(&self, keep: f64, step: u64, steps: u64) -> f64 {
        self.target_at(keep, step as f64 / steps.max(1) as f64)
    }

    /// The target at this share of the steps.
    pub fn target_at(&self, keep: f64, share: f64) -> f64 {
        let length = (self.until - self.from).max(f64::MIN_POSITIVE);
        keep.powf(((share - self.from) / length).clamp(0.0, 1.0))
    }
}

impl TryFrom<Value> for Budgets {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let word = serde_json::from_value(value.clone()).map(Self::Word);
        word.or_else(|_| serde_json::from_value(value.clone()).map(Self::Prior))
            .map_err(|_| format!("{value} is neither uniform, nor probe, nor a list of one share per layer"))
    }
}

impl Default for Ramp {
    fn default() -> Self {
        Self { from: 0.05, until: 0.6 }
    }
}

impl Default for Budgets {
    fn default() -> Self {
        Self::Word(BudgetWord::Probe)
    }
}
