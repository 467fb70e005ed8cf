//! From flags to a decoder, its tokenizer and its policy, with progress for people.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use dropcap_kernels::Team;
use dropcap_kernels::cuda::Device;
use dropcap_methods::{MethodSpec, ModelFacts};
use dropcap_model::device::{DeviceWeights, check_method};
use dropcap_model::hub::{self, Freshness, HubOptions, HubProgress, OfflineCause, Origin};
use dropcap_model::{Checkpoint, Decoder, DecoderConfig};
use dropcap_policy::EvictionPolicy;
use dropcap_weights::Fingerprint;

use crate::arguments::ModelArguments;
use crate::default_model;
use crate::device::DeviceChoice;
use crate::progress::{Downloads, spinner, warn};

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

/// A model that was found and checked; its weights are not read yet.
pub struct Found {
    pub checkpoint: Checkpoint,
    facts: ModelFacts,
}

impl Found {
    /// Finds the model that the flags name, downloading it if it is a hub id.
    pub fn open(arguments: &ModelArguments) -> Result<Self> {
        let directory = match &arguments.model {
            Some(model) => find(model, arguments.revision.as_deref(), arguments.offline)?,
            None => default_model::directory()?,
        };
        let checkpoint = Checkpoint::open(&directory)?;
        let folder = Some(checkpoint.directory().to_path_buf());
        let facts = facts_of(checkpoint.config(), checkpoint.fingerprint()?, folder);
        Ok(Self { checkpoint, facts })
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

/// Builds a method for a model of which `facts` are known.
pub fn policy(method: &MethodSpec, facts: &ModelFacts) -> Result<Arc<dyn EvictionPolicy>> {
    dropcap_methods::build(method, facts).with_context(|| format!("cannot use --method \"{method}\""))
}

/// The GPU to run on, or none for the processor: what the flags say, unless they leave it open and a method cannot run
/// there.
pub fn device_for<'a>(
    choice: DeviceChoice,
    config: &DecoderConfig,
    policies: impl IntoIterator<Item = &'a Arc<dyn EvictionPolicy>>,
) -> Result<Option<Device>> {
    let device = choice.open()?;
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
    let found = Found::open(arguments)?;
    // The method first: a mistyped spec should not cost a minute of loading.
    let policy = found.policy(method)?;
    let device = device_for(arguments.machine.device, found.checkpoint.config(), [&policy])?;
    let compute = found.load(device, arguments)?;
    let (directory, config) = (found.checkpoint.directory().to_path_buf(), found.checkpoint.config().clone());
    Ok(Loaded { directory, config, compute, policy })
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
pub fn facts_of(config: &DecoderConfig, fingerprint: Fingerprint, directory: Option<PathBuf>) -> ModelFacts {
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
