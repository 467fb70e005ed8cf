//! A model that is asked, with what it is asked in.

use std::sync::Arc;

use anyhow::Result;
use dropcap_eval::{Compute, Method, Subject};
use dropcap_kernels::Team;
use dropcap_kernels::cuda::DeviceChoice;
use dropcap_methods::MethodSpec;
use dropcap_model::{GenerationConfig, Tokenizer};

use super::conversation::Conversation;
use crate::arguments::ModelArguments;
use crate::loading::{self, Found, device_for, say_other_cache};

/// How a model is asked.
pub struct Asking {
    /// What it runs on.
    pub device: DeviceChoice,
    /// Ask with texts that it goes on with, also where it has a chat template.
    pub no_chat_template: bool,
    /// Most prompt tokens of a step; none for what is usual on its device.
    pub chunk: Option<usize>,
    /// Most sequences at once.
    pub max_batch: usize,
}

impl Asking {
    /// Builds the methods, then loads the model: a mistyped spec should not cost a minute.
    pub fn subject(&self, model: &ModelArguments, found: &Found, specs: &[MethodSpec]) -> Result<Subject> {
        let directory = found.checkpoint.directory();
        let config = found.checkpoint.config().clone();
        let tokenizer = Tokenizer::open(directory)?;
        tokenizer.check_vocabulary(config.vocabulary)?;
        let generation = GenerationConfig::open(directory, &config)?;
        let build = |spec: &MethodSpec| Ok(Method { name: spec.to_string(), policy: found.policy(spec)? });
        let methods = specs.iter().map(build).collect::<Result<Vec<Method>>>()?;
        let machine = &model.machine;
        for method in &methods {
            say_other_cache(method.policy.as_ref(), machine.kv_dtype);
        }
        let device = device_for(self.device, &config, methods.iter().map(|method| &method.policy))?;
        let compute = found.load(device, model)?;
        let chunk = self.chunk.unwrap_or(compute.chunk());
        let kv_dtype = compute.kv_dtype(machine.kv_dtype);
        let (compute, team) = match compute {
            loading::Compute::Host { team, decoder } => (Compute::Host(decoder), team),
            loading::Compute::Device(weights) => {
                (Compute::Device(weights), Arc::new(Team::new(machine.threads())?))
            }
        };
        let tokenizer = Arc::new(tokenizer);
        let template = match self.no_chat_template {
            true => None,
            false => Conversation::with(directory, &tokenizer, &generation)?,
        };
        Ok(Subject {
            compute,
            team,
            config,
            tokenizer,
            template,
            start: generation.bos_token_id.or_else(|| generation.eos_token_ids.first().copied()),
            stop_tokens: generation.eos_token_ids,
            kv_dtype,
            kv_limit: machine.kv_limit,
            chunk,
            max_batch: self.max_batch,
            methods,
        })
    }
}
