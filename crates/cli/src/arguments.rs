//! Flags that several verbs share.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use dropcap_engine::Sampling;
use dropcap_kernels::cuda::DeviceChoice;
use dropcap_methods::{GATES_FILE, MethodSpec};
use dropcap_model::WeightFormat;

use crate::cache_choice::CacheChoice;
use crate::{default_model, size};

/// Which model.
#[derive(Args, Debug)]
pub struct SourceArguments {
    /// A directory as `save_pretrained` writes it, a GGUF file, or a Hugging Face id such as `openai-community/gpt2`
    /// [default: a small model that the command carries].
    #[arg(short, long, value_name = "DIR|FILE.gguf|ORG/NAME", env = "DROPCAP_MODEL", help_heading = "Model")]
    pub model: Option<String>,
    /// Branch, tag or commit of a hub id.
    #[arg(long, value_name = "REV", env = "DROPCAP_REVISION", help_heading = "Model")]
    pub revision: Option<String>,
    /// Use only what is in the local cache of the hub (as HF_HUB_OFFLINE=1 does).
    #[arg(long, help_heading = "Model")]
    pub offline: bool,
    /// What was learned on top of the model: LoRA factors in PEFT's layout, gates, or both, as `dropcap train` writes them.
    /// The factors are merged while the model is read.
    #[arg(long, value_name = "DIR", requires = "model", env = "DROPCAP_ADAPTER", help_heading = "Model")]
    pub adapter: Option<PathBuf>,
    /// Take the adapter although it was trained on another model than this; nothing was measured on this one.
    #[arg(long, requires = "adapter", help_heading = "Model")]
    pub other_base: bool,
}

/// Which model, and how it is held in memory.
#[derive(Args, Debug)]
pub struct ModelArguments {
    #[command(flatten)]
    pub source: SourceArguments,
    /// How weights are held in memory: auto (as they are stored), f32, bf16 or f16, or in blocks of 8 or 4 bits, q8 or q4.
    #[arg(long, value_name = "DTYPE", default_value = "auto", env = "DROPCAP_DTYPE", help_heading = "Model")]
    pub dtype: WeightFormat,
    #[command(flatten)]
    pub machine: MachineArguments,
}

impl ModelArguments {
    /// The method that goes with the model: `dcp` where gates lie with the adapter, or where the model is the one that the
    /// command carries.
    pub fn own_method(&self) -> Result<MethodSpec> {
        let has_gates = |folder: &PathBuf| folder.join(GATES_FILE).exists();
        Ok(match &self.source {
            source if source.adapter.as_ref().is_some_and(has_gates) => "dcp".parse()?,
            source if source.model.is_none() => default_model::METHOD.parse()?,
            _ => "none".parse()?,
        })
    }

    /// The model as the user named it, with its adapter.
    pub fn name(&self) -> String {
        let model = self.source.model.as_deref().unwrap_or("default");
        match &self.source.adapter {
            Some(adapter) => format!("{model} + {}", adapter.display()),
            None => model.to_owned(),
        }
    }
}

/// By which method a model forgets.
#[derive(Args, Debug)]
pub struct MethodArguments {
    /// Pruning method; see `dropcap methods` [default: none; dcp for an adapter with gates and for the model that the
    /// command carries].
    #[arg(long, value_name = "SPEC")]
    method: Option<MethodSpec>,
}

impl MethodArguments {
    /// The method asked for, else the one that goes with the model.
    pub fn of(&self, model: &ModelArguments) -> Result<MethodSpec> {
        self.method.clone().map_or_else(|| model.own_method(), Ok)
    }
}

/// How tokens are drawn.
#[derive(Args, Debug)]
pub struct SamplingArguments {
    /// 0 always takes the likeliest token.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    temperature: f32,
    /// Only the K likeliest tokens; 0 keeps all.
    #[arg(
        long,
        value_name = "K",
        default_value = "0",
        allow_negative_numbers = true,
        value_parser = size::count,
        help_heading = "Sampling"
    )]
    top_k: usize,
    /// Only the likeliest tokens whose probabilities reach this sum.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    top_p: f32,
    /// Only tokens at least this share as likely as the likeliest.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    min_p: f32,
    /// Above 1, tokens already in the text become less likely.
    #[arg(
        long,
        value_name = "X",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        help_heading = "Sampling"
    )]
    repetition_penalty: f32,
    /// Equal seeds give equal texts.
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sampling")]
    seed: u64,
}

impl SamplingArguments {
    /// What the engine is asked for.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
            ..Sampling::default()
        }
    }
}

/// How much a step takes along.
#[derive(Args, Debug)]
pub struct StepArguments {
    /// Most prompt tokens per step [default: 256; 2048 on a GPU].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = size::positive, help_heading = "Machine")]
    pub chunk: Option<usize>,
    /// Most sequences at once; the rest wait.
    #[arg(long, value_name = "N", default_value = "64", allow_negative_numbers = true, value_parser = size::positive, help_heading = "Machine")]
    pub max_batch: usize,
}

/// What of the machine to use.
#[derive(Args, Debug)]
pub struct MachineArguments {
    /// What to run on: auto (the first usable GPU, else the processor), cpu or cuda:N; see `dropcap doctor`.
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "auto",
        env = "DROPCAP_DEVICE",
        help_heading = "Machine"
    )]
    pub device: DeviceChoice,
    /// How keys and values are stored: auto (f32 on the processor; on a GPU as the weights, blocks as bf16), f32, bf16 or f16,
    /// or as codes of 8 bits (q8), or of 8 and 4 (q4).
    #[arg(
        long,
        value_name = "DTYPE",
        default_value = "auto",
        env = "DROPCAP_KV_DTYPE",
        help_heading = "Machine"
    )]
    pub kv_dtype: CacheChoice,
    /// Threads to compute with on the processor [default: all].
    #[arg(
        short,
        long,
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = size::positive,
        env = "DROPCAP_THREADS",
        help_heading = "Machine"
    )]
    pub threads: Option<usize>,
    /// Cap on the pages of the KV cache of all sequences together, such as 4GiB [default: nine tenths of the free memory;
    /// none for `forward` and `bench` on the processor].
    #[arg(long, value_name = "SIZE", value_parser = size::bytes, env = "DROPCAP_KV_LIMIT", help_heading = "Machine")]
    pub kv_limit: Option<usize>,
}

impl MachineArguments {
    /// The number of threads to use.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}
