//! LoRA adapters in PEFT's layout, merged into a checkpoint's weights while they are read.
//!
//! Source: Hu et al. 2021, arXiv 2106.09685, section 4.1: `W x + (alpha / r) B A x`. As a sum of matrices this is one
//! matrix again, so a merged model computes exactly as fast as its base, and every reader of a [`Checkpoint`] (processor,
//! device, training) gets the merged weights without knowing of adapters.
//!
//! [`Checkpoint`]: crate::Checkpoint

mod config;
mod low_rank;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dropcap_weights::{ContentDigest, Fingerprint, ShardedTensors};

pub(crate) use self::config::AdapterConfig;
pub use self::low_rank::LowRank;
pub use self::write::NewAdapter;
use crate::Checkpoint;
use crate::error::ModelError;
use crate::weight_plan::{MatrixPart, MatrixPlan, WeightPlan};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Where PEFT puts the model that it wraps.
const WRAPPED: &str = "base_model.model.";
/// Key of the weights' metadata that says which base the adapter was trained on, where its writer said so.
const BASE: &str = "dropcap.base";

/// A LoRA adapter of one model: a product of two thin matrices for some of its weights.
///
/// Read from a directory with `adapter_config.json` and `adapter_model.safetensors`, as PEFT's `save_pretrained` and
/// `dropcap train` write it.
#[derive(Debug)]
pub struct Adapter {
    directory: PathBuf,
    config: AdapterConfig,
    tensors: ShardedTensors,
    any_base: bool,
}

impl Adapter {
    /// Opens a directory; no weight is read yet.
    ///
    /// # Errors
    /// A file that is missing or refused on its own; an adapter of a kind that is more than a sum of matrices.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let config = AdapterConfig::open(&directory.join(CONFIG))?;
        let tensors = ShardedTensors::single(&directory.join(WEIGHTS))?;
        Ok(Self { directory: directory.to_path_buf(), config, tensors, any_base: false })
    }

    /// Whether a directory holds an adapter, readable or not.
    #[must_use]
    pub fn is_in(directory: &Path) -> bool {
        directory.join(CONFIG).exists() || directory.join(WEIGHTS).exists()
    }

    /// The same adapter for every model that its factors fit, although its writer measured it on another.
    #[must_use]
    pub fn for_any_base(self) -> Self {
        Self { any_base: true, ..self }
    }

    pub(crate) fn fits_any_base(&self) -> bool {
        self.any_base
    }

    /// The directory that was opened.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The model that the adapter says it was trained on, as its writer called it.
    #[must_use]
    pub fn base_name(&self) -> Option<&str> {
        self.config.base.as_deref()
    }

    /// The fingerprint of the model that it was trained on, as text; none where its writer left none, as PEFT does.
    #[must_use]
    pub fn base_fingerprint(&self) -> Option<&str> {
        self.tensors.files().first().and_then(|file| file.metadata().get(BASE)).map(String::as_str)
    }

    /// In what a model, as it is without this adapter, differs from the one that the adapter names by its fingerprint, one
    /// line each; empty where it names none.
    ///
    /// # Errors
    /// A file of the model that became shorter or unreadable.
    pub fn differences(&self, base: &Checkpoint) -> Result<Vec<String>, ModelError> {
        let Some(named) = self.base_fingerprint() else { return Ok(Vec::new()) };
        Ok(match named.parse::<Fingerprint>() {
            Ok(named) => named.differences(&base.fingerprint()?),
            Err(error) => vec![error.to_string()],
        })
    }

    /// Reads all factors, by the name of the tensor that each is added to.
    ///
    /// # Errors
    /// [`ModelError::AdapterMismatch`] with every tensor of the adapter that has no place in the plan, lacks its other
    /// half or has another shape; a file that became shorter or unreadable.
    pub(crate) fn read(&self, plan: &WeightPlan) -> Result<BTreeMap<String, LowRank<'static>>, ModelError> {
        let targets = targets(plan);
        let mut problems = Vec::new();
        let mut factors = BTreeMap::new();
        for name in self.tensors.names() {
            let Some(module) =
                name.strip_prefix(WRAPPED).and_then(|rest| rest.strip_suffix(".lora_A.weight"))
            else {
                let half = name.strip_suffix(".lora_B.weight").map(|stem| format!("{stem}.lora_A.weight"));
                match half {
                    Some(other) if self.tensors.info(&other).is_some() => {}
                    Some(other) => problems.push(format!("{name:.200}: has no {other:.200} beside it")),
                    None => problems.push(format!("{name:.200}: not a factor of a linear layer")),
                }
                continue;
            };
            let Some(&(plan, part)) = targets.get(trunk(module)) else {
                problems.push(format!("{module:.200}: this model has no such linear layer of its own"));
                continue;
            };
            match self.factors(module, plan.inputs, part)? {
                Ok(found) => {
                    factors.insert(part.tensor.clone(), found);
                }
                Err(problem) => problems.push(problem),
            }
        }
        if factors.is_empty() && problems.is_empty() {
            problems.push("it holds no factors at all".to_owned());
        }
        if problems.is_empty() {
            Ok(factors)
        } else {
            Err(ModelError::AdapterMismatch { path: self.directory.clone(), problems })
        }
    }

    /// Both factors of one module, or what is wrong with their shapes.
    fn factors(
        &self,
        module: &str,
        inputs: usize,
        part: &MatrixPart,
    ) -> Result<Result<LowRank<'static>, String>, ModelError> {
        let name = |half: &str| format!("{WRAPPED}{module}.lora_{half}.weight");
        let shape = |half: &str| self.tensors.info(&name(half)).map(|info| info.shape.clone());
        let rank = self.config.rank(module);
        let expected = [("A", vec![rank, inputs]), ("B", vec![part.outputs, rank])];
        for (half, expected) in expected {
            match shape(half) {
                None => return Ok(Err(format!("{module}: lora_{half}.weight is missing"))),
                Some(found) if found != expected => {
                    return Ok(Err(format!(
                        "{module}: lora_{half}.weight: expected shape {expected:?}, found {found:?}"
                    )));
                }
                Some(_) => {}
            }
        }
        let read = |half: &str| self.tensors.read_f32(&name(half));
        Ok(Ok(LowRank {
            a: read("A")?.into(),
            b: read("B")?.into(),
            rank,
            inputs,
            orientation: part.orientation,
            scale: self.config.scale(module),
        }))
    }

    /// Takes the adapter into a model's digest, so that what is learned on top of it (gates) knows both.
    pub(crate) fn digest(&self, digest: &mut ContentDigest) -> Result<(), ModelError> {
        for name in self.tensors.names() {
            let label = name.strip_prefix(WRAPPED).unwrap_or(name);
            digest.tensor(label, &self.tensors, name)?;
            let scale = self.config.scale(label.split(".lora_").next().unwrap_or(label));
            digest.bytes(&scale.to_le_bytes());
        }
        Ok(())
    }
}

/// The linear layers that an adapter can change, by the name of their module within the trunk.
fn targets(plan: &WeightPlan) -> BTreeMap<&str, (&MatrixPlan, &MatrixPart)> {
    // A head that is the embedding cannot be changed alone, so it is not among them.
    let matrices = plan.products().chain(plan.head.as_ref());
    let parts = matrices.flat_map(|matrix| matrix.parts.iter().map(move |part| (matrix, part)));
    parts
        .filter_map(|(matrix, part)| Some((trunk(part.tensor.strip_suffix(".weight")?), (matrix, part))))
        .collect()
}

/// The name that PEFT gives to a factor of a stored weight: `base_model.model.model.layers.0.mlp.up_proj.lora_A.weight`.
#[must_use]
pub fn peft_factor(plan: &WeightPlan, tensor: &str, half: char) -> String {
    format!("{WRAPPED}{}.lora_{half}.weight", module(plan, tensor))
}

/// The module of a stored weight, as the model for causal language modelling names it in Python.
#[must_use]
pub fn module(plan: &WeightPlan, tensor: &str) -> String {
    let module = tensor.strip_suffix(".weight").unwrap_or(tensor);
    // The first published files of GPT-2 hold the trunk alone.
    if plan.prefix.is_empty() { format!("transformer.{module}") } else { module.to_owned() }
}

/// A module's name without what stands before the layers: checkpoints of the bare trunk have none, wrapped models have
/// `model.` or `transformer.`.
fn trunk(module: &str) -> &str {
    ["model.", "transformer."].iter().find_map(|prefix| module.strip_prefix(prefix)).unwrap_or(module)
}
