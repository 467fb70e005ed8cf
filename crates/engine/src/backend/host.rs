//! A decoder on the host's threads.

use std::sync::Arc;

use dropcap_cache::{KvCache, LayerIdx, PagePool, PoolUsage};
use dropcap_kernels::Team;
use dropcap_model::{Decoder, DecoderConfig, Logits, Scratch, Segment};
use dropcap_policy::EvictionPolicy;

use super::{Answer, DeathSink, Feed};
use crate::demand::PoolSize;
use crate::memory::SequenceMemory;
use crate::{Draw, EngineError, EngineOptions, machine, sample_all};

/// A decoder on the host, and what it works with.
#[derive(Debug)]
pub(crate) struct Host {
    decoder: Arc<Decoder>,
    policy: Arc<dyn EvictionPolicy>,
    team: Arc<Team>,
    pool: PagePool,
    scratch: Scratch,
    logits: Vec<f32>,
}

impl Host {
    pub(crate) fn new(
        decoder: Arc<Decoder>,
        policy: Arc<dyn EvictionPolicy>,
        team: Arc<Team>,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        // A tenth is left to what grows beside the pages: activations, metadata, other processes.
        let limit = options.kv_limit.or_else(|| machine::available_memory().map(|bytes| bytes / 10 * 9));
        let pool = decoder.page_pool(policy.as_ref(), options.kv_dtype, limit)?;
        Ok(Self { decoder, policy, team, pool, scratch: Scratch::default(), logits: Vec::new() })
    }

    pub(super) fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    pub(super) fn pool(&self) -> PoolSize {
        let page_bytes = self.pool.layout().bytes();
        let limit_bytes = self.pool.limit_bytes().unwrap_or(usize::MAX);
        PoolSize { pages: limit_bytes / page_bytes, page_bytes, limit_bytes }
    }

    pub(super) fn free_pages(&self) -> usize {
        self.pool.pages_available()
    }

    pub(super) fn usage(&self) -> PoolUsage {
        self.pool.usage()
    }

    pub(super) fn open(&self) -> SequenceMemory {
        let lanes = self.decoder.lanes_per_layer(self.policy.as_ref());
        SequenceMemory::Host(KvCache::new(&self.pool, self.config().layers, lanes))
    }

    pub(super) fn run(
        &mut self,
        feeds: &mut [Feed<'_>],
        died: DeathSink<'_>,
    ) -> Result<Vec<Answer>, EngineError> {
        let mut segments = feeds.iter_mut().map(segment).collect::<Result<Vec<_>, _>>()?;
        let (policy, scratch, logits) = (self.policy.as_ref(), &mut self.scratch, &mut self.logits);
        self.decoder.forward(&self.team, policy, &mut segments, scratch, died, logits)?;
        // One row for each feed that wants a token, in their order.
        let mut rows = self.logits.chunks_exact(self.decoder.config().vocabulary);
        let draws: Vec<Draw<'_>> = feeds
            .iter()
            .filter_map(|feed| feed.draw.as_ref())
            .map(|next| Draw {
                sampler: next.sampler,
                logits: rows.next().unwrap_or_default(),
                text: next.text,
                random: next.random,
            })
            .collect();
        let mut tokens = sample_all(&self.team, &draws).into_iter();
        // What the cache could not hold comes first: it explains logits that are not finite, and the others are wrong.
        let answers = feeds.iter().map(|feed| {
            let token = feed.draw.as_ref().and_then(|_| tokens.next())?;
            Some(feed.memory.check_range().map_err(EngineError::from).and(token))
        });
        Ok(answers.collect())
    }
}

fn segment<'a>(feed: &'a mut Feed<'_>) -> Result<Segment<'a>, EngineError> {
    let SequenceMemory::Host(cache) = &mut *feed.memory else { return Err(EngineError::ForeignMemory) };
    let logits = if feed.draw.is_some() { Logits::Last } else { Logits::None };
    Ok(Segment { cache, ids: feed.tokens, prompt_ends: feed.prompt_ends, logits })
}

/// Live entries of each layer, all lanes of it together.
pub(super) fn live_entries(cache: &KvCache) -> Vec<u64> {
    let live = |layer| cache.lanes(LayerIdx(layer)).iter().map(|lane| lane.len() as u64).sum();
    (0..cache.layers()).map(live).collect()
}
