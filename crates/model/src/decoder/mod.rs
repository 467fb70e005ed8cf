//! One configurable decoder for every family: norm, fused projection, rotation, gated attention, MLP.
//!
//! A family is a mapping from its config to [`DecoderConfig`] and from its tensor names to [`crate::WeightPlan`];
//! nothing here asks which family it is. This is the only place where a pruning policy is called.

mod fill;
mod forward;
mod host;
mod layers;
mod matrix;
mod memory;
mod mix;
mod renumber;
mod scratch;
mod silence;
mod step;

pub use scratch::Scratch;
pub use step::{DeathSink, Logits, Segment};

use std::sync::Arc;

use dropcap_cache::PagePool;
use dropcap_kernels::{KvFormat, PageLayout, RopeTable, Team};
use dropcap_policy::EvictionPolicy;

use self::host::HostMemory;
use crate::weights::{WeightFormat, Weights, rope_table};
use crate::{Checkpoint, DecoderConfig, ModelError};

/// A decoder-only transformer whose weights are packed for this machine.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    weights: Arc<Weights<HostMemory>>,
    rope: Option<RopeTable>,
    /// Query heads that add nothing, `[layers]`; empty where all speak.
    silenced: Vec<Vec<usize>>,
}

impl Decoder {
    /// Reads and packs all weights in a format.
    ///
    /// Memory peaks at the packed weights plus a few MiB; only GPT-2's `[inputs, outputs]` matrices are read whole.
    ///
    /// # Errors
    /// A weight that is not finite, or that the format could hold only as infinity; a file that became shorter or
    /// unreadable since the checkpoint was opened; sizes that overflow memory.
    pub fn load(
        team: &Team,
        checkpoint: &Checkpoint,
        format: impl Into<WeightFormat>,
    ) -> Result<Self, ModelError> {
        let weights = Weights::load(&HostMemory::new(format.into()), team, checkpoint)?;
        Ok(Self::of(checkpoint.config(), weights))
    }

    /// Random weights of `config`'s shape, the same for the same seed, for measuring it without a checkpoint.
    ///
    /// They are small enough for activations to stay finite through any number of layers.
    ///
    /// # Errors
    /// Sizes that overflow memory.
    pub fn random(
        config: &DecoderConfig,
        format: impl Into<WeightFormat>,
        seed: u64,
    ) -> Result<Self, ModelError> {
        Ok(Self::of(config, Weights::random(&HostMemory::new(format.into()), config, seed)?))
    }

    fn of(config: &DecoderConfig, weights: Weights<HostMemory>) -> Self {
        Self {
            config: config.clone(),
            weights: Arc::new(weights),
            rope: rope_table(config),
            silenced: Vec::new(),
        }
    }

    /// The architecture that this decoder was built from.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// How the matrices are held: names of formats, that of the most bytes first, such as `Q4_1+Q8_0`.
    #[must_use]
    pub fn formats(&self) -> String {
        self.weights.formats()
    }

    /// Bytes of weights that one decode step reads: all but the embedding rows it does not look up.
    #[must_use]
    pub fn streamed_bytes(&self) -> usize {
        self.weights.head().bytes() + self.weights.layer_bytes()
    }

    /// An empty pool of pages shaped for this decoder under `policy`, storing keys and values as `format` says and
    /// never holding more than `limit_bytes`.
    ///
    /// # Errors
    /// A policy that turns keys to other positions over a model that cannot have it; a page so large that its size overflows. A limit below one page gives a pool that refuses every page.
    pub fn page_pool(
        &self,
        policy: &dyn EvictionPolicy,
        format: impl Into<KvFormat>,
        limit_bytes: Option<usize>,
    ) -> Result<PagePool, ModelError> {
        let needs = policy.needs();
        if needs.renumbers || needs.anchored.is_some() {
            let problem = match (&self.rope, self.config.sliding_window.iter().any(Option::is_some)) {
                (None, _) => Some("does not turn its keys by their positions"),
                (_, true) => Some("has layers with sliding windows, which count positions of the text"),
                (Some(_), false) => None,
            };
            if let Some(problem) = problem {
                return Err(ModelError::Renumbering { problem });
            }
        }
        let heads = self.config.kv_heads / self.lanes_per_layer(policy);
        let side_widths = policy.side_channels().iter().map(|channel| channel.width).collect();
        let layout = PageLayout::new(heads, self.config.head_dim, side_widths, format)?;
        Ok(PagePool::with_statistics(layout, limit_bytes, policy.needs().statistics))
    }

    /// How many lanes each layer of a sequence has under `policy`: one, or one per KV head.
    #[must_use]
    pub fn lanes_per_layer(&self, policy: &dyn EvictionPolicy) -> usize {
        if policy.per_head() { self.config.kv_heads } else { 1 }
    }
}
