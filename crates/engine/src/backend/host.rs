//! A decoder on the host's threads.

use std::sync::Arc;

use dropcap_cache::{KvCache, LayerIdx, PagePool, PoolUsage};
use dropcap_kernels::Team;
use dropcap_model::{Decoder, DecoderConfig, Logits, Scratch, Segment};
use dropcap_policy::EvictionPolicy;

use super::rows::{self, ROWS, Row};
use super::{Answer, DeathSink, Feed, Given};
use crate::demand::PoolSize;
use crate::memory::{HostMemory, SequenceMemory};
use crate::prefix::Sharing;
use crate::{EngineError, EngineOptions, machine};

/// Most beginnings that are kept.
pub(super) const KEPT: usize = 512;

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
        self.hold(KvCache::new(&self.pool, self.config().layers, lanes))
    }

    /// A sequence that begins with a cache.
    pub(super) fn hold(&self, cache: KvCache) -> SequenceMemory {
        SequenceMemory::Host(HostMemory { cache, is_dense: self.sharing() == Sharing::Dense })
    }

    pub(super) fn sharing(&self) -> Sharing {
        Sharing::of(self.policy.as_ref(), self.config().sliding_window.iter().any(Option::is_some))
    }

    pub(super) fn run(
        &mut self,
        feeds: &mut [Feed<'_>],
        died: DeathSink<'_>,
    ) -> Result<Vec<Answer>, EngineError> {
        let mut segments = feeds.iter_mut().map(segment).collect::<Result<Vec<_>, _>>()?;
        let (policy, scratch) = (self.policy.as_ref(), &mut self.scratch);
        self.decoder.run(&self.team, policy, &mut segments, scratch, died)?;
        let rows = |(number, feed): (usize, &Feed<'_>)| {
            let rows = feed.first_row().map_or(0..0, |first| first..feed.tokens.len());
            rows.map(move |row| (number, row))
        };
        let asked: Vec<(usize, usize)> = feeds.iter().enumerate().flat_map(rows).collect();
        let mut answers: Vec<Answer> = feeds.iter().map(|_| Ok(Given::default())).collect();
        let draws = feeds.iter().filter(|feed| feed.draw.is_some()).count();
        let mut first = 0;
        for part in asked.chunks(ROWS.max(draws)) {
            let logits = &mut self.logits;
            self.decoder.project(&self.team, scratch, first..first + part.len(), logits)?;
            first += part.len();
            let logits = logits.chunks_exact(self.decoder.config().vocabulary);
            let part = part.iter().zip(logits);
            let part: Vec<Row<'_>> = part.map(|(&(feed, row), logits)| Row { feed, row, logits }).collect();
            rows::draw(&self.team, feeds, &part, &mut answers);
            rows::score(&self.team, feeds, &part, &mut answers);
        }
        // What the cache could not hold comes first: it explains logits that are not finite, and the others are wrong.
        let checked = feeds.iter().zip(answers).map(|(feed, answer)| match feed.first_row() {
            Some(_) => feed.memory.check_range().map_err(EngineError::from).and(answer),
            None => answer,
        });
        Ok(checked.collect())
    }
}

fn segment<'a>(feed: &'a mut Feed<'_>) -> Result<Segment<'a>, EngineError> {
    let logits = feed.first_row().map_or(Logits::None, Logits::From);
    let SequenceMemory::Host(memory) = &mut *feed.memory else { return Err(EngineError::ForeignMemory) };
    let (cache, ids) = (&mut memory.cache, feed.tokens);
    Ok(Segment { cache, ids, stage: feed.stage, budget: feed.budget, logits })
}

/// Live entries of each layer, all lanes of it together.
pub(super) fn live_entries(cache: &KvCache) -> Vec<u64> {
    let live = |layer| cache.lanes(LayerIdx(layer)).iter().map(|lane| lane.len() as u64).sum();
    (0..cache.layers()).map(live).collect()
}
