//! What a training starts from: a checkpoint or a shape, and its texts.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dropcap_kernels::cuda::Device;
use dropcap_kernels::{DType, KernelError, Team};
use dropcap_model::chat::{ChatTemplate, TemplateError, template_of};
use dropcap_model::{Checkpoint, DecoderConfig, GenerationConfig, Tokenizer, WeightPlan};
use dropcap_weights::Fingerprint;
use serde_json::{Value, json};

use super::adapter::{draw_factors, factor_form, layout};
use super::companions::companion;
use super::gates::{Fitted, fit};
use super::subset::subset;
use super::teacher::{apart, check_teacher, device_teacher, teacher};
use super::{Pressure, Trainer};
use crate::TrainError;
use crate::backend::{Backend, Processor, Room};
use crate::collective::Alone;
use crate::config::{Config, Family, GateRule, Init, Trained};
use crate::data::{Batches, Borders, Language, Prepared, Preparing, named_end, prepare};
use crate::device::{self, Cuda, Need};
use crate::digest::Digest;
use crate::network::{FactorForm, GateForm, Group, Layout, Network, initialize};
use crate::select::Account;

/// The model that a training starts from, before any of its weights is read.
#[derive(Debug)]
pub struct Source {
    config: DecoderConfig,
    plan: WeightPlan,
    /// The `config.json` of the result.
    json: Value,
    checkpoint: Option<Checkpoint>,
    tokenizer: Tokenizer,
    tokenizer_file: PathBuf,
    borders: Borders,
    /// The tokens at which a generation of the model that is given ends.
    stops: Vec<u32>,
    /// How the model writes conversations; what is wrong with it matters to those who train on some.
    template: Result<Option<ChatTemplate>, TemplateError>,
    /// Another model that teaches this one.
    pub(super) teacher: Option<Box<Source>>,
}

/// The training and held-out texts of a run, as batches.
#[derive(Debug)]
pub struct Texts {
    /// To train on.
    pub train: Batches,
    /// To evaluate on, one per file.
    pub valid: Vec<Batches>,
    /// What examples were chosen to train on once, in words.
    pub subset: Option<String>,
}

impl Source {
    /// Opens what a configuration names, and compares tokenizer and model.
    ///
    /// # Errors
    /// A checkpoint, shape or tokenizer that is refused.
    pub fn open(config: &Config) -> Result<Self, TrainError> {
        let source = match (&config.model, &config.init) {
            (Some(directory), _) => Self::of_checkpoint(directory),
            (None, Some(init)) => Self::of_shape(init, config.tokenizer.as_deref()),
            (None, None) => Err(TrainError::Internal { what: "neither model nor init".into() }),
        }?;
        match &config.teacher {
            None => Ok(source),
            Some(directory) => source.taught_by(Self::of_checkpoint(directory)?),
        }
    }

    /// Opens a checkpoint, wherever the configuration says that it comes from: a hub id, once it is downloaded.
    ///
    /// # Errors
    /// A checkpoint or tokenizer that is refused.
    pub fn of_checkpoint(directory: &Path) -> Result<Self, TrainError> {
        let checkpoint = Checkpoint::open(directory)?;
        checkpoint.check_finite()?;
        let tokenizer = Tokenizer::open(directory)?;
        tokenizer.check_vocabulary(checkpoint.config().vocabulary)?;
        let path = directory.join("config.json");
        let text = companion(&path)?;
        let json = serde_json::from_slice(&text)
            .map_err(|error| TrainError::Internal { what: format!("{}: {error}", path.display()) })?;
        let tokenizer_file = directory.join("tokenizer.json");
        let generation = GenerationConfig::open(directory, checkpoint.config())?;
        let template = template_of(directory, None, &tokenizer, &generation);
        let stops = generation.eos_token_ids;
        let borders = Borders::of(&tokenizer, &stops, named_end(&tokenizer_file)?.as_deref())?;
        Ok(Self {
            config: checkpoint.config().clone(),
            plan: checkpoint.plan().clone(),
            json,
            checkpoint: Some(checkpoint),
            tokenizer,
            tokenizer_file,
            borders,
            stops,
            template,
            teacher: None,
        })
    }

    fn of_shape(init: &Init, tokenizer: Option<&Path>) -> Result<Self, TrainError> {
        let path = tokenizer.unwrap_or(Path::new("tokenizer.json")).to_path_buf();
        let bytes = std::fs::read(&path).map_err(|error| TrainError::io("read", &path, error))?;
        let tokenizer = Tokenizer::parse(&path, &bytes)?;
        let borders = Borders::of(&tokenizer, &[], named_end(&path)?.as_deref())?;
        let json = config_json(init, &tokenizer, &borders);
        let config = DecoderConfig::parse(Path::new("init"), json.to_string().as_bytes())?;
        tokenizer.check_vocabulary(config.vocabulary)?;
        let plan = WeightPlan::of(&config, &|_| false);
        let stops = config.eos_token_ids.clone();
        let generation = GenerationConfig { bos_token_id: config.bos_token_id, eos_token_ids: stops.clone() };
        let beside = path.parent().unwrap_or(Path::new(""));
        let template = template_of(beside, None, &tokenizer, &generation);
        Ok(Self {
            config,
            plan,
            json,
            checkpoint: None,
            tokenizer,
            tokenizer_file: path,
            borders,
            stops,
            template,
            teacher: None,
        })
    }

    /// What the model computes.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Which tensors it has.
    #[must_use]
    pub fn plan(&self) -> &WeightPlan {
        &self.plan
    }

    /// The `config.json` that describes it.
    pub(super) fn json(&self) -> &Value {
        &self.json
    }

    /// The directory that it was read from, if it was.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        self.checkpoint.as_ref().map(Checkpoint::directory)
    }

    /// Its tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// How texts, prompts with their answers and conversations become its tokens.
    #[must_use]
    pub fn language(&self) -> Language<'_> {
        Language {
            tokenizer: &self.tokenizer,
            borders: &self.borders,
            stops: &self.stops,
            template: self.template.as_ref().map(Option::as_ref),
        }
    }

    /// What stands around each document.
    #[must_use]
    pub fn borders(&self) -> &Borders {
        &self.borders
    }

    /// Tokens at which a generation of the model ends.
    pub(super) fn stops(&self) -> &[u32] {
        &self.stops
    }

    /// What a person should know of how documents are told apart, and whether it is a warning.
    #[must_use]
    pub fn about_borders(&self) -> (String, bool) {
        let written = |ids: &[u32]| -> Vec<String> {
            ids.iter().map(|&id| self.tokenizer.token(id).unwrap_or_else(|| id.to_string())).collect()
        };
        let Borders { begin, end } = &self.borders;
        let Some(stop) = self.borders.stop() else {
            let text = "neither the model nor its tokenizer names a token that ends a text: documents run into each other, and the result will not stop by itself; name one as eos_token_id in config.json, or as eos_token in tokenizer_config.json beside the tokenizer";
            return (text.to_owned(), true);
        };
        let mut text = format!("documents end with {}", written(end).join(" "));
        if !begin.is_empty() {
            text.push_str(&format!(" and begin with {}", written(begin).join(" ")));
        }
        let is_text = !self.tokenizer.is_control(stop);
        if is_text {
            text.push_str(", which is no special token of the tokenizer: it may stand in text as well");
        }
        (text, is_text)
    }

    pub(super) fn tokenizer_file(&self) -> &Path {
        &self.tokenizer_file
    }

    /// The dtype that its weights are stored in; f32 from scratch.
    pub(super) fn stored_dtype(&self) -> DType {
        self.checkpoint.as_ref().map_or(DType::F32, Checkpoint::stored_dtype)
    }

    /// Which checkpoint it is.
    ///
    /// # Errors
    /// A model that has no checkpoint; a file that became unreadable.
    pub(super) fn fingerprint(&self) -> Result<Fingerprint, TrainError> {
        match &self.checkpoint {
            Some(checkpoint) => Ok(checkpoint.fingerprint()?),
            None => Err(TrainError::Internal { what: "random weights have no fingerprint".into() }),
        }
    }

    /// Which model it is.
    ///
    /// # Errors
    /// A file that became unreadable.
    pub fn identity(&self) -> Result<String, TrainError> {
        Ok(match &self.checkpoint {
            Some(checkpoint) => checkpoint.fingerprint()?.to_string(),
            None => "random weights".to_owned(),
        })
    }

    /// The weights to start from, in a layout of this model's plan.
    ///
    /// # Errors
    /// A file that became unreadable.
    pub(super) fn weights(&self, layout: &Layout, seed: u64) -> Result<Vec<f32>, TrainError> {
        match &self.checkpoint {
            Some(checkpoint) => layout.read(checkpoint),
            None => initialize(&self.config, &self.plan, layout, seed),
        }
    }

    /// Turns the configured files into batches, from the cache where they are there already; what was not there is
    /// added to it if `keep` says so.
    ///
    /// # Errors
    /// Files that are refused, too little text, a choice among examples of texts, a cache that cannot be written.
    pub fn texts(
        &self,
        config: &Config,
        keep: bool,
        tell: &mut dyn FnMut(Prepared<'_>),
    ) -> Result<Texts, TrainError> {
        let tokens = config.sequence_tokens(self.config.max_positions)?;
        let tokenizer_digest = Digest::of(&companion(&self.tokenizer_file)?);
        let cache = config.cache();
        let threads = threads(config);
        let mut shards = |files: &[PathBuf]| {
            let what = Preparing {
                files,
                language: self.language(),
                tokenizer_digest,
                vocabulary: self.config.vocabulary,
                cache: &cache,
                keep,
                threads,
            };
            prepare(&what, tell)
        };
        let train = shards(&config.data.train)?;
        let (train, subset) = subset(config, self, train)?;
        let train = Batches::new("training", train, config.batch.sequences, tokens, config.seed)?;
        let valid = config.data.valid.iter().map(|file| {
            Batches::new("validation", shards(std::slice::from_ref(file))?, 1, tokens, config.seed)
        });
        Ok(Texts { valid: valid.collect::<Result<_, _>>()?, train, subset })
    }
}

/// Threads that a configuration asks for, or all processors.
pub(super) fn threads(config: &Config) -> usize {
    config.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// What a configuration trains on, behind the values that it holds: a network with gates of `form`, and its teacher, on
/// `device` or on the processor.
fn backend(
    config: &Config,
    source: &Source,
    device: Option<&Device>,
    layout: &Layout,
    form: Option<GateForm>,
    held: Vec<f32>,
) -> Result<Box<dyn Backend>, TrainError> {
    let tokens = config.sequence_tokens(source.config().max_positions)?;
    let room = room(config, tokens);
    check_teacher(config, source)?;
    if let Some(device) = device {
        check_room(config, source, device)?;
        let (factors, apart) = (factors(config, source)?, apart(config, source)?);
        let plan = device_plan(config, source, layout.clone(), factors.as_ref(), room, &held, &apart);
        return Ok(Box::new(Cuda::new(device, &plan)?));
    }
    if config.precision.is_some_and(|precision| precision != DType::F32) {
        let problem =
            "precision is bf16, and the processor computes in f32: leave it out, or set device to cuda:0";
        let origin = "the configuration does not fit the device".to_owned();
        return Err(TrainError::Config { origin, problems: vec![problem.to_owned()] });
    }
    let team = Team::new(threads(config))?;
    let network = student(config, source, form, &[])?;
    let teacher = teacher(config, source, &team, &network, &held, room)?;
    let still = still(config, network.layout());
    Ok(Box::new(Processor::new(team, network, teacher, room, still, held)))
}

fn room(config: &Config, tokens: usize) -> Room {
    let recompute = config.checkpoint.activations;
    Room { sequences: config.batch.micro_sequences, tokens, recompute }
}

/// The factors of a configuration that trains some.
fn factors(config: &Config, source: &Source) -> Result<Option<FactorForm>, TrainError> {
    (config.train == Trained::Lora).then(|| factor_form(config, source)).transpose()
}

/// What a configuration trains on a device, behind the values that it holds; a teacher that does not share its student's weights
/// has those `apart`.
fn device_plan<'a>(
    config: &Config,
    source: &'a Source,
    layout: Layout,
    factors: Option<&'a FactorForm>,
    room: Room,
    held: &'a [f32],
    apart: &'a [f32],
) -> device::Plan<'a> {
    device::Plan {
        config: source.config(),
        plan: source.plan(),
        gates: config.gates.as_ref().map(|gates| gates.form(source.config().kv_heads)),
        factors,
        scales: &[],
        dtype: config.precision.unwrap_or(DType::Bf16),
        cache: config.kv_dtype,
        room,
        still: still(config, &layout),
        layout,
        held,
        teacher: device_teacher(config, source, apart),
    }
}

/// What a configuration takes of a device's memory.
///
/// # Errors
/// [`TrainError::NoDeviceMemory`] where that is more than is free, with what would fit.
pub(super) fn check_room(config: &Config, source: &Source, device: &Device) -> Result<Need, TrainError> {
    let tokens = config.sequence_tokens(source.config().max_positions)?;
    let form = config.gates.as_ref().map(|gates| gates.form(source.config().kv_heads));
    let layout = layout(config, source, form)?;
    let factors = factors(config, source)?;
    let mut plan = device_plan(config, source, layout, factors.as_ref(), room(config, tokens), &[], &[]);
    let (free, _) = device.memory().map_err(KernelError::from)?;
    let need = plan.need();
    if need.bytes() <= free {
        return Ok(need);
    }
    let smaller = [config.checkpoint.activations, true].into_iter().flat_map(|recompute| {
        let fitting = (1..=config.batch.micro_sequences).rev();
        let whole = fitting.filter(|sequences| config.batch.sequences.is_multiple_of(*sequences));
        whole.map(move |sequences| Room { sequences, tokens, recompute })
    });
    let fits = smaller.into_iter().find(|&room| {
        plan.room = room;
        plan.need().bytes() <= free
    });
    let advice = match fits {
        Some(Room { sequences, recompute, .. }) => {
            format!("set batch.micro_sequences to {sequences} and checkpoint.activations to {recompute}")
        }
        None => "not even one sequence fits; lower batch.tokens, train the gates alone, or set device to cpu"
            .to_owned(),
    };
    let device = device.facts().name.clone();
    Err(TrainError::NoDeviceMemory { device, needed: need.bytes() >> 20, free: free >> 20, advice })
}

/// The network that is trained: its cache is that of inference, and what is not trained costs no gradients.
pub(super) fn student(
    config: &Config,
    source: &Source,
    gates: Option<GateForm>,
    scales: &[Vec<f32>],
) -> Result<Network, TrainError> {
    let network = Network::new(source.config(), source.plan(), gates, scales)?.cached_as(config.kv_dtype);
    Ok(match config.train {
        Trained::All => network,
        Trained::Gates => network.with_held_weights(),
        Trained::Lora => network.with_factors(&factor_form(config, source)?, source.plan())?,
    })
}

/// What has a gradient that is not followed.
fn still(config: &Config, layout: &Layout) -> Vec<Range<usize>> {
    let mut still = Vec::new();
    if biases_are_controlled(config) {
        // The controller moves all biases of a layer alike; a gradient of theirs would work against it.
        let biases =
            layout.slots().iter().filter(|slot| slot.group == Group::Gates && slot.name.ends_with("bias"));
        still.extend(biases.map(|slot| slot.range.clone()));
    }
    still
}

/// Whether biases of the gates are left to the controller.
pub(super) fn biases_are_controlled(config: &Config) -> bool {
    config.gates.as_ref().is_some_and(|gates| gates.rule != GateRule::Soft)
}

/// The `config.json` of a model from scratch, as `transformers` would write it.
fn config_json(init: &Init, tokenizer: &Tokenizer, borders: &Borders) -> Value {
    let end = borders.stop();
    let begin = borders.begin.first().copied().or(end);
    let vocabulary = init.vocabulary.unwrap_or_else(|| tokenizer.vocabulary_size());
    match init.family {
        Family::Gpt2 => json!({
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
            "n_layer": init.layers, "n_embd": init.hidden, "n_head": init.heads, "n_inner": init.intermediate(),
            "n_positions": init.context, "vocab_size": vocabulary, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": true, "bos_token_id": begin, "eos_token_id": end,
        }),
        Family::Llama => json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "num_hidden_layers": init.layers, "hidden_size": init.hidden, "num_attention_heads": init.heads,
            "num_key_value_heads": init.kv_heads(), "head_dim": init.hidden / init.heads.max(1),
            "intermediate_size": init.intermediate(), "max_position_embeddings": init.context,
            "vocab_size": vocabulary, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "attention_bias": false,
            "mlp_bias": false, "tie_word_embeddings": true, "bos_token_id": begin, "eos_token_id": end,
        }),
    }
}

impl Trainer {
    /// A training at its first step: weights are read or drawn, and hard gates look at the model to find the scales of
    /// their input and the layers' budgets. It computes on `device`, or on the processor without one. `told` hears what
    /// takes a while.
    ///
    /// # Errors
    /// A configuration that does not fit the model; files that became unreadable; too little memory.
    pub fn new(
        config: &Config,
        source: Source,
        texts: Texts,
        device: Option<&Device>,
        told: &mut dyn FnMut(&str),
    ) -> Result<Self, TrainError> {
        let tokens = config.sequence_tokens(source.config().max_positions)?;
        let form = config.gates.as_ref().map(|gates| gates.form(source.config().kv_heads));
        let layout = layout(config, &source, form)?;
        let mut values = source.weights(&layout, config.seed)?;
        draw_factors(&layout, config.seed, &mut values)?;
        let border = layout.trained().start;
        let mut backend = backend(config, &source, device, &layout, form, values[..border].to_vec())?;
        backend.load(&values[border..], None)?;
        let fitted = match &config.gates {
            None => Fitted { scales: Vec::new(), pressure: Pressure::None },
            Some(gates) => {
                let fitted = fit(config, gates, &source, backend.as_mut(), &mut values, &texts, told)?;
                if !fitted.scales.is_empty() {
                    backend.rescale(&fitted.scales)?;
                }
                backend.load(&values[border..], None)?;
                fitted
            }
        };
        let Fitted { scales, pressure } = fitted;
        let accounts = vec![Account::default(); texts.train.shards().len()];
        Ok(Self {
            config: config.clone(),
            source,
            backend,
            tokens,
            gates: form,
            pressure,
            scales,
            batches: texts.train,
            valid: texts.valid,
            others: Box::new(Alone),
            step: 0,
            updates: 0,
            skipped: 0,
            subset: texts.subset,
            accounts,
            choosing: Duration::ZERO,
        })
    }
}
