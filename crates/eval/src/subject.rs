//! What is evaluated: a model, where it runs, and the methods that prune it.

use std::sync::Arc;

use dropcap_cache::PagePool;
use dropcap_engine::{Engine, EngineError, EngineOptions, Reading};
use dropcap_kernels::{KvFormat, Team};
use dropcap_model::device::{DeviceDecoder, DeviceOptions, DeviceWeights};
use dropcap_model::{Decoder, DecoderConfig, Tokenizer};
use dropcap_policy::EvictionPolicy;

use crate::EvalError;

/// Tokens of a text that go in at a time; on a device their logits are in memory together.
pub(crate) const TEXT_CHUNK: usize = 256;
/// Rows of logits that a device computes at a time.
const DEVICE_ROWS: usize = 128;

/// Where a model's weights are.
#[derive(Debug, Clone)]
pub enum Compute {
    /// With the processor's threads.
    Host(Arc<Decoder>),
    /// On a GPU.
    Device(Arc<DeviceWeights>),
}

/// Puts a conversation into the form that a model was trained on.
pub trait Template: std::fmt::Debug + Send + Sync {
    /// The tokens of a conversation that the model is to continue as the assistant; the messages are the user's and the
    /// assistant's in turn, the user's first.
    ///
    /// # Errors
    /// [`EvalError::Template`] for a conversation that the template refuses.
    fn encode(&self, messages: &[String]) -> Result<Vec<u32>, EvalError>;
}

/// A method under its name.
#[derive(Debug, Clone)]
pub struct Method {
    /// Its spec, such as `dcp`; `none` is the dense run.
    pub name: String,
    /// What it does.
    pub policy: Arc<dyn EvictionPolicy>,
}

/// A model and the methods to run it with.
#[derive(Debug)]
pub struct Subject {
    /// Its weights.
    pub compute: Compute,
    /// Threads of the host: they run the model, or compare what a device computed.
    pub team: Arc<Team>,
    /// Its architecture.
    pub config: DecoderConfig,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The token that stands before a text that has no context: what begins a text, or else what ends one.
    pub start: Option<u32>,
    /// How questions are put to the model; none for texts that it goes on with.
    pub template: Option<Arc<dyn Template>>,
    /// Tokens that end an answer.
    pub stop_tokens: Vec<u32>,
    /// How keys and values are stored.
    pub kv_dtype: KvFormat,
    /// Cap on the cache in bytes, as for [`EngineOptions`].
    pub kv_limit: Option<usize>,
    /// Most prompt tokens of a step of the engine.
    pub chunk: usize,
    /// Most sequences at once.
    pub max_batch: usize,
    /// The methods, the dense run first.
    pub methods: Vec<Method>,
}

impl Subject {
    /// An idle engine under a method.
    pub(crate) fn engine(&self, method: &Method) -> Result<Engine, EngineError> {
        self.engine_on(&self.compute, method)
    }

    /// An idle engine with the weights that lie there.
    pub(crate) fn engine_on(&self, compute: &Compute, method: &Method) -> Result<Engine, EngineError> {
        let options = EngineOptions {
            chunk: self.chunk,
            max_batch: self.max_batch,
            kv_dtype: self.kv_dtype,
            kv_limit: self.kv_limit,
            ..EngineOptions::default()
        };
        let policy = method.policy.clone();
        match compute {
            Compute::Host(decoder) => Engine::new(decoder.clone(), policy, self.team.clone(), options),
            Compute::Device(weights) => Engine::on_device(weights.clone(), policy, options, false),
        }
    }

    /// Its weights in the processor's memory.
    ///
    /// # Errors
    /// A model on a device, with what asks for it.
    pub(crate) fn on_the_processor(&self, what: &'static str) -> Result<&Decoder, EvalError> {
        match &self.compute {
            Compute::Host(decoder) => Ok(decoder),
            Compute::Device(_) => Err(EvalError::NeedsProcessor { what }),
        }
    }

    /// The tokens of a piece of a longer text: without what the tokenizer puts around every text, which is control tokens.
    pub(crate) fn piece(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        let mut ids = self.tokenizer.encode(text)?;
        ids.retain(|&id| !self.tokenizer.is_control(id));
        Ok(ids)
    }

    /// Tokens that the template puts around a first message, a default message of the system with them.
    pub(crate) fn around_a_message(&self) -> Result<usize, EvalError> {
        let Some(template) = &self.template else { return Ok(0) };
        let word = "word";
        Ok(template.encode(&[word.to_owned()])?.len().saturating_sub(self.piece(word)?.len()))
    }

    /// What reads one text after the other under a method, at most `chunk` tokens a step.
    pub(crate) fn reader<'a>(&'a self, method: &'a Method, chunk: usize) -> Result<Reader<'a>, EvalError> {
        let policy = method.policy.as_ref();
        Ok(match &self.compute {
            Compute::Host(decoder) => {
                let pool = decoder.page_pool(policy, self.kv_dtype, self.kv_limit)?;
                Reader::Host { decoder, team: &self.team, policy, pool }
            }
            Compute::Device(weights) => {
                let options = DeviceOptions {
                    kv_dtype: self.kv_dtype,
                    kv_limit: self.kv_limit,
                    chunk,
                    max_batch: 1,
                    deaths: true,
                    logit_rows: DEVICE_ROWS,
                    kept: 0,
                };
                Reader::Device(Box::new(DeviceDecoder::new(weights.clone(), policy, options)?))
            }
        })
    }
}

/// Reads texts under one method.
pub(crate) enum Reader<'a> {
    Host { decoder: &'a Decoder, team: &'a Team, policy: &'a dyn EvictionPolicy, pool: PagePool },
    Device(Box<DeviceDecoder>),
}

impl Reader<'_> {
    /// Begins a text of so many tokens.
    pub(crate) fn begin(&mut self, tokens: usize) -> Result<Reading<'_>, EngineError> {
        match self {
            Self::Host { decoder, team, policy, pool } => {
                Ok(Reading::on_host(decoder, team, *policy, pool, tokens))
            }
            Self::Device(decoder) => Reading::on_device(decoder, tokens),
        }
    }
}
