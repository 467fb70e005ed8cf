//! From flags to a decoder, its tokenizer and its policy, with progress for people.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use dropcap_engine::{Engine, EngineOptions};
use dropcap_kernels::cuda::{Device, DeviceChoice};
use dropcap_kernels::{DType, KvFormat, Team};
use dropcap_methods::{GATES_FILE, MethodSpec, ModelFacts};
use dropcap_model::chat::{ChatTemplate, template_of};
use dropcap_model::device::{DeviceWeights, check_method};
use dropcap_model::hub::{self, Freshness, HubOptions, HubProgress, OfflineCause, Origin};
use dropcap_model::{Adapter, Checkpoint, Decoder, DecoderConfig, GenerationConfig, ModelError, Tokenizer};
use dropcap_policy::EvictionPolicy;
use dropcap_weights::Fingerprint;

use crate::arguments::{MachineArguments, ModelArguments, SourceArguments};
use crate::cache_choice::CacheChoice;
use crate::default_model;
use crate::device::chosen;
use crate::progress::{Downloads, spinner, warn};
use crate::terminal::say;

/// A model in memory, ready to run.
pub struct Loaded {
    pub directory: PathBuf,
    pub config: DecoderConfig,
    pub compute: Compute,
    pub policy: Arc<dyn EvictionPolicy>,
}

/// Where the weights are.
pub enum Compute {
    /// With the processor's threads.
    Host { team: Arc<Team>, decoder: Arc<Decoder> },
    /// On a GPU.
    Device(Arc<DeviceWeights>),
}

impl Compute {
    /// What `chunk` is on a GPU.
    pub const DEVICE_CHUNK: usize = 2048;

    /// Prompt tokens of a step where nobody says otherwise; a GPU wants larger chunks than a processor.
    pub fn chunk(&self) -> usize {
        match self {
            Self::Host { .. } => 256,
            Self::Device(_) => Self::DEVICE_CHUNK,
        }
    }

    /// How keys and values are stored.
    pub fn kv_dtype(&self, choice: CacheChoice) -> KvFormat {
        choice.beside(match self {
            Self::Host { .. } => DType::F32,
            Self::Device(weights) => weights.dtype(),
        })
    }

    /// How the weights are held: names of formats, that of the most bytes first.
    pub fn formats(&self) -> String {
        match self {
            Self::Host { decoder, .. } => decoder.formats(),
            Self::Device(weights) => weights.formats(),
        }
    }
}

impl Loaded {
    /// How an engine of this model divides its time.
    pub fn engine_options(
        &self,
        machine: &MachineArguments,
        chunk: Option<usize>,
        max_batch: usize,
    ) -> EngineOptions {
        EngineOptions {
            chunk: chunk.unwrap_or(self.compute.chunk()),
            max_batch,
            kv_dtype: self.compute.kv_dtype(machine.kv_dtype),
            kv_limit: machine.kv_limit,
            ..EngineOptions::default()
        }
    }

    /// An engine of this model; `traced` says whether a trace will be written.
    pub fn engine(&self, options: EngineOptions, traced: bool) -> Result<Engine> {
        let policy = self.policy.clone();
        Ok(match &self.compute {
            Compute::Host { team, decoder } => Engine::new(decoder.clone(), policy, team.clone(), options)?,
            Compute::Device(weights) => Engine::on_device(weights.clone(), policy, options, traced)?,
        })
    }
}

/// How texts and conversations become tokens, and where texts end.
pub struct Language {
    pub tokenizer: Arc<Tokenizer>,
    pub generation: GenerationConfig,
    /// None where the model says nothing about conversations.
    pub template: Option<ChatTemplate>,
}

impl Loaded {
    /// What the model's directory says of its language; `template` is a file in the place of its own template.
    pub fn language(&self, template: Option<&Path>) -> Result<Language> {
        let tokenizer = Arc::new(Tokenizer::open(&self.directory)?);
        tokenizer.check_vocabulary(self.config.vocabulary)?;
        let generation = GenerationConfig::open(&self.directory, &self.config)?;
        let template = template_of(&self.directory, template, &tokenizer, &generation)?;
        Ok(Language { tokenizer, generation, template })
    }
}

/// A model that was found and checked; its weights are not read yet.
pub struct Found {
    pub checkpoint: Checkpoint,
    facts: ModelFacts,
}

impl Found {
    /// Finds the model that the flags name, downloading it if it is a hub id.
    pub fn open(arguments: &SourceArguments) -> Result<Self> {
        let directory = match &arguments.model {
            Some(model) => find(model, arguments.revision.as_deref(), arguments.offline)?,
            None => default_model::directory()?,
        };
        let SourceArguments { adapter, other_base, .. } = arguments;
        let mut checkpoint = Checkpoint::open(&directory)?;
        if let Some(adapter) = adapter {
            checkpoint = with_adapter(checkpoint, adapter, *other_base)?;
        }
        let gates = adapter.as_ref().filter(|folder| folder.join(GATES_FILE).exists());
        let folder = gates.unwrap_or(&directory).clone();
        let fingerprint = (!other_base).then(|| checkpoint.fingerprint()).transpose()?;
        let facts = facts_of(checkpoint.config(), fingerprint, Some(folder));
        Ok(Self { checkpoint, facts })
    }

    /// What methods may know of it.
    pub fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Builds a method for it.
    pub fn policy(&self, method: &MethodSpec) -> Result<Arc<dyn EvictionPolicy>> {
        policy(method, &self.facts)
    }

    /// Reads and packs its weights.
    pub fn load(&self, device: Option<Device>, arguments: &ModelArguments) -> Result<Compute> {
        let bar = spinner("loading weights");
        let team = Arc::new(Team::new(arguments.machine.threads())?);
        let compute = match device {
            Some(device) => Compute::Device(Arc::new(DeviceWeights::load(
                &device,
                &team,
                &self.checkpoint,
                arguments.dtype,
            )?)),
            None => {
                let decoder = Arc::new(Decoder::load(&team, &self.checkpoint, arguments.dtype)?);
                Compute::Host { team, decoder }
            }
        };
        bar.finish_and_clear();
        Ok(compute)
    }
}

/// Merges what lies in an adapter's directory; gates alone change no weight.
fn with_adapter(checkpoint: Checkpoint, folder: &Path, other_base: bool) -> Result<Checkpoint> {
    if !Adapter::is_in(folder) && folder.join(GATES_FILE).exists() {
        if other_base {
            let (gates, base) = (folder.display(), checkpoint.directory().display());
            warn(&format!(
                "the gates in {gates} are taken whichever model they were trained on; nothing was measured on {base}"
            ));
        }
        return Ok(checkpoint);
    }
    let adapter = Adapter::open(folder)?;
    if other_base {
        if !adapter.differences(&checkpoint)?.is_empty() {
            let (adapter, base) = (folder.display(), checkpoint.directory().display());
            warn(&format!(
                "the adapter in {adapter} was trained on another model than {base}, and nothing was measured on this one"
            ));
        }
        return Ok(checkpoint.with_adapter(adapter.for_any_base())?);
    }
    checkpoint.with_adapter(adapter).map_err(|error| match error {
        ModelError::AdapterOfAnotherBase { .. } => {
            anyhow!("{error}\ngive the model that it was trained on, or --other-base to use it here, where nothing was measured")
        }
        other => other.into(),
    })
}

/// Builds a method for a model of which `facts` are known.
pub fn policy(method: &MethodSpec, facts: &ModelFacts) -> Result<Arc<dyn EvictionPolicy>> {
    method.notes().iter().for_each(|note| say(&format!("note: {note}")));
    dropcap_methods::build(method, facts).with_context(|| format!("cannot use --method \"{method}\""))
}

/// The GPU to run on, or none for the processor: what the flags say, unless they leave it open and a method cannot run
/// there.
pub fn device_for<'a>(
    choice: DeviceChoice,
    config: &DecoderConfig,
    policies: impl IntoIterator<Item = &'a Arc<dyn EvictionPolicy>>,
) -> Result<Option<Device>> {
    let device = chosen(choice)?;
    if device.is_some() && choice == DeviceChoice::Auto {
        for policy in policies {
            if let Err(reason) = check_method(config, policy) {
                warn(&format!("not using the GPU: {reason}"));
                return Ok(None);
            }
        }
    }
    Ok(device)
}

/// Finds the model, checks it, builds the method, packs the weights.
pub fn load(arguments: &ModelArguments, method: &MethodSpec) -> Result<Loaded> {
    load_as(arguments, method, |policy| policy)
}

/// [`load`] with another policy in the method's place.
pub fn load_as(
    arguments: &ModelArguments,
    method: &MethodSpec,
    replace: impl FnOnce(Arc<dyn EvictionPolicy>) -> Arc<dyn EvictionPolicy>,
) -> Result<Loaded> {
    let found = Found::open(&arguments.source)?;
    // The method first: a mistyped spec should not cost a minute of loading.
    let policy = found.policy(method)?;
    say_other_cache(policy.as_ref(), arguments.machine.kv_dtype);
    let policy = replace(policy);
    let device = device_for(arguments.machine.device, found.checkpoint.config(), [&policy])?;
    let compute = found.load(device, arguments)?;
    let (directory, config) = (found.checkpoint.directory().to_path_buf(), found.checkpoint.config().clone());
    Ok(Loaded { directory, config, compute, policy })
}

/// Warns of gates for which somebody names another cache than their biases were settled for. What a device takes by itself is as
/// exact as all else that it computes.
pub fn say_other_cache(policy: &dyn EvictionPolicy, choice: CacheChoice) {
    let CacheChoice::Named(kv_dtype) = choice else { return };
    for rule in policy.rules().into_iter().flatten() {
        if let Some(settled) =
            rule.action.settled_for().kv_dtype.filter(|&settled| KvFormat::from(settled) != kv_dtype)
        {
            warn(&format!(
                "the gates were settled for a cache in {settled}, and this one is in {kv_dtype}: they may keep another \
                 share than they were trained to; --kv-dtype {settled} keeps it"
            ));
        }
    }
}

/// Warns of gates that were taught on shorter texts than these may become.
pub fn say_longer_texts(policy: &dyn EvictionPolicy, most: usize) {
    let rules = policy.rules().into_iter().flatten();
    if let Some(tokens) =
        rules.filter_map(|rule| rule.action.settled_for().tokens).min().filter(|&tokens| tokens < most)
    {
        warn(&format!(
            "the gates were taught on texts of {tokens} tokens, and here are up to {most}: of what is longer they may keep \
             another share than they were trained to"
        ));
    }
}

/// The model's directory on this machine; a hub id is downloaded with a bar, and what a person should know of it
/// is said on standard error.
pub fn find(model: &str, revision: Option<&str>, offline: bool) -> Result<PathBuf> {
    let mut options = HubOptions::from_env();
    options.revision = revision.map(str::to_owned);
    if offline {
        options.offline = Some(OfflineCause::Flag);
    }
    let bars = Arc::new(Downloads::default());
    let told = Arc::clone(&bars);
    options.progress = HubProgress::new(move |event| told.tell(event));
    let resolved = hub::resolve(model, &options)?;
    bars.clear();
    if let Origin::Hub { freshness: Freshness::Stale(reason), .. } = &resolved.origin {
        warn(&format!("the hub could not be asked ({reason}); using what the cache holds"));
    }
    Ok(resolved.directory)
}

/// What methods may know of a model.
pub fn facts_of(
    config: &DecoderConfig,
    fingerprint: Option<Fingerprint>,
    directory: Option<PathBuf>,
) -> ModelFacts {
    ModelFacts {
        layers: config.layers,
        hidden: config.hidden,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        family: config.family.to_string(),
        fingerprint,
        directory,
    }
}
