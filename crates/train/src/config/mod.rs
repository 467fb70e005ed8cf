//! What to train, on what, and how: one YAML file, and `key=value` on the command line over it.
//!
//! ```yaml
//! model: models/gpt2
//! data: {train: [books.txt.xz], valid: [held-out.txt]}
//! output: runs/first
//! sparsity: {target_keep: 0.2}
//! ```
//!
//! [`KEYS`] lists every key with its default and its meaning. Unknown keys, and keys that contradict each other, are
//! errors; all are reported at once.

mod check;
mod choices;
mod device;
mod differences;
mod dtype;
mod gates;
mod keys;
mod lora;
mod overrides;
mod resolve;
mod running;
mod select;
mod sparsity;
mod start;

use std::path::{Path, PathBuf};

use dropcap_kernels::DType;
use dropcap_kernels::cuda::DeviceChoice;
use serde::{Deserialize, Serialize};

pub use choices::{Decay, Family, GateGroup, GateRule, Method, Scale, SparsityForm, Trained};
pub use gates::{Gates, Noise, Window};
pub use keys::{KEYS, Key};
pub use lora::Lora;
pub use running::{Batch, Checkpoint, Data, Evaluate, Optimizer, Watchdog};
pub use select::Select;
pub use sparsity::{BudgetWord, Budgets, Pressure, Ramp, Sparsity};
pub use start::Init;

use crate::TrainError;
use crate::digest::Digest;

/// The version of this format that is written, and the newest that is read.
pub const CONFIG_VERSION: u64 = 1;

/// A resolved configuration: every default filled in, and nothing in it that does not apply.
///
/// What a field means and its default stand in [`KEYS`] under the field's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of the format, [`CONFIG_VERSION`].
    pub version: u64,
    /// The model to start from; this or `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// The shape of a model of random weights to start from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// The `tokenizer.json` of a model that starts from random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// The texts.
    pub data: Data,
    /// The run's directory.
    pub output: PathBuf,
    /// The seed of batches, weights and noise.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// How large a step is.
    pub batch: Batch,
    /// How weights follow gradients.
    pub optimizer: Optimizer,
    /// Which weights are trained.
    pub train: Trained,
    /// The factors, for `train: lora`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// What is forgotten during training.
    pub method: Method,
    /// The window, for `method: window`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// The gates, for `method: dcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gates: Option<Gates>,
    /// How much the gates are to forget, for `method: dcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// The share of the loss that is the distance from the teacher's predictions.
    pub distill: f64,
    /// Whom to imitate; `None` is the model as it was before training, nothing forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// When states are saved, and what is kept.
    pub checkpoint: Checkpoint,
    /// When the hard policy is evaluated.
    pub evaluate: Evaluate,
    /// When a run is stopped because it went wrong.
    pub watchdog: Watchdog,
    /// How the result stores its weights; `None` as the model that it started from.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "dtype::optional")]
    pub dtype: Option<DType>,
    /// How inference will store keys, values and key gates; the forward pass rounds them alike.
    #[serde(with = "dtype")]
    pub kv_dtype: DType,
    /// What the run computes on.
    #[serde(default, with = "device")]
    pub device: DeviceChoice,
    /// What products on a GPU compute in; `None` is bf16 there. The processor computes in f32.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "dtype::optional")]
    pub precision: Option<DType>,
    /// Threads to compute with; `None` takes all processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

impl Config {
    /// Reads a file, lays `key=value` overrides over it, fills in the defaults and checks all of it.
    ///
    /// A key is a path of names joined by dots, a value is YAML: `optimizer.learning_rate=1e-3`,
    /// `data.valid=[a.txt, b.txt]`. An empty value stands for the default.
    ///
    /// # Errors
    /// A file that cannot be read; [`TrainError::Config`] with everything that is wrong.
    pub fn resolve(path: &Path, overrides: &[String]) -> Result<Self, TrainError> {
        let text = resolve::read(path)?;
        Self::parse(&path.display().to_string(), &text, overrides)
    }

    /// [`Config::resolve`] for a text; `origin` is only for messages.
    ///
    /// # Errors
    /// [`TrainError::Config`] with everything that is wrong.
    pub fn parse(origin: &str, text: &str, overrides: &[String]) -> Result<Self, TrainError> {
        resolve::resolve(text, overrides)
            .map_err(|problems| TrainError::Config { origin: origin.to_owned(), problems })
    }

    /// The configuration as YAML, which gives the same configuration when it is read again.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_yaml(&self) -> Result<String, TrainError> {
        serde_saphyr::to_string(self).map_err(|error| TrainError::Config {
            origin: "the configuration cannot be written".to_owned(),
            problems: vec![error.to_string()],
        })
    }

    /// What `other` would change of a run with this configuration, one line per key; empty where nothing is.
    ///
    /// Keys that do not change the result are left out: `version`, `output`, `device`, `threads`, `data.cache`,
    /// `checkpoint.every` and `checkpoint.keep`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        differences::between(self, other)
    }

    /// The digest of all that [`Config::differences`] compares.
    pub fn digest(&self) -> Digest {
        differences::digest(self)
    }

    /// The folder that token shards are kept in.
    pub fn cache(&self) -> PathBuf {
        self.data.cache.clone().unwrap_or_else(|| self.output.join("cache"))
    }

    /// Tokens of a sequence, t, for a model of `positions` positions: what `batch.tokens` says, else all positions up
    /// to 1024.
    ///
    /// # Errors
    /// More than the model has positions; so few that the protected entries leave nothing to forget.
    pub fn sequence_tokens(&self, positions: usize) -> Result<usize, TrainError> {
        let tokens = self.batch.tokens.unwrap_or_else(|| positions.min(running::DEFAULT_TOKENS));
        let problems = check::tokens(self, tokens, positions);
        if problems.is_empty() {
            return Ok(tokens);
        }
        Err(TrainError::Config { origin: "the configuration does not fit the model".to_owned(), problems })
    }
}

#[cfg(test)]
mod tests;
