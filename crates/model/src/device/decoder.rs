//! A decoder on a device with the cache of its sequences.

use std::collections::BTreeMap;
use std::sync::Arc;

use dropcap_kernels::KvFormat;
use dropcap_kernels::activation::DeviceActivation;
use dropcap_kernels::attention::DeviceAttention;
use dropcap_kernels::cuda::{
    Device, DeviceBuffer, DeviceLanes, DeviceStep, Module, PinnedBuffer, Specialisation,
};
use dropcap_kernels::embedding::DeviceEmbedding;
use dropcap_kernels::lifetimes::{
    Deaths, DeviceInherit, DeviceLifetimes, LaneLifetimes, SpanStatus, StepStatus,
};
use dropcap_kernels::matmul::DeviceMatmul;
use dropcap_kernels::norm::DeviceNorm;
use dropcap_kernels::ranking::RankingSize;
use dropcap_kernels::rope::{DeviceAppend, DeviceRope};
use dropcap_kernels::sampling::{DeviceSampler, SlotSampling};
use dropcap_kernels::vote::DeviceVotes;
use dropcap_policy::{EvictionPolicy, Needs};

use super::changes::Changes;
use super::graph::DecodeGraph;
use super::places::Places;
use super::pool::{PoolShape, pages_for};
use super::ranker::{self, Ranker};
use super::rules::{DeviceGates, DeviceRules, side_width};
use super::scratch::DeviceScratch;
use super::slots::Slots;
use super::sources::needed;
use super::{DeviceWeights, Slot, SlotState};
use crate::{DecoderConfig, ModelError};

/// How a device divides its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceOptions {
    /// How keys, values and key gates are stored.
    pub kv_dtype: KvFormat,
    /// Cap on the pages of the cache in bytes; none means what is left of nine tenths of the free memory after what
    /// comes with them.
    pub kv_limit: Option<usize>,
    /// Most prompt tokens of a step.
    pub chunk: usize,
    /// Most sequences at once.
    pub max_batch: usize,
    /// Whether steps tell of every entry that died.
    pub deaths: bool,
    /// Rows of logits that one step may bring back, beside those that are sampled from.
    pub logit_rows: usize,
    /// Most caches that are kept of sequences, beside those that run.
    pub kept: usize,
}

/// Weights, cache, kernels and graphs: everything that a step needs, on one device.
#[derive(Debug)]
pub struct DeviceDecoder {
    pub(super) weights: Arc<DeviceWeights>,
    pub(super) rules: DeviceRules,
    pub(super) ranker: Option<Ranker>,
    pub(super) places: Places,
    pub(super) changes: Option<Changes>,
    needs: Needs,
    pub(super) kernels: Kernels,
    pub(super) rope: Option<(DeviceBuffer<[f32; 2]>, usize)>,
    pub(super) scratch: DeviceScratch,
    pub(super) inputs: DeviceStep,
    pub(super) sampling: SamplingBuffers,
    pub(super) status: DeviceBuffer<u32>,
    pub(super) status_host: PinnedBuffer<u32>,
    pub(super) deaths: Option<Deaths>,
    pub(super) graphs: BTreeMap<usize, DecodeGraph>,
    pub(super) lanes: DeviceLanes,
    pub(super) slots: Slots,
    /// Slots of caches that are kept.
    pub(super) kept: Slots,
    /// What is known of each slot.
    pub(super) states: Vec<SlotState>,
    pub(super) free_pages: usize,
    pub(super) peak_pages: usize,
    pub(super) options: DeviceOptions,
}

/// The compiled operations.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) embedding: DeviceEmbedding,
    pub(super) norm: DeviceNorm,
    pub(super) append: DeviceAppend,
    pub(super) activation: DeviceActivation,
    pub(super) matmul: DeviceMatmul,
    pub(super) attention: DeviceAttention,
    pub(super) lifetimes: DeviceLifetimes,
    pub(super) votes: Option<DeviceVotes>,
    pub(super) inherit: Option<DeviceInherit>,
    pub(super) sampler: DeviceSampler,
}

/// What sampling reads and writes.
#[derive(Debug)]
pub(super) struct SamplingBuffers {
    /// Slot of each row of logits.
    pub(super) slots: DeviceBuffer<u32>,
    /// Uniform in [0, 1), one for each row.
    pub(super) randoms: DeviceBuffer<f32>,
    /// What came out.
    pub(super) tokens: DeviceBuffer<u32>,
}

impl DeviceDecoder {
    /// A decoder with an empty cache for up to `options.max_batch` sequences under `policy`.
    ///
    /// # Errors
    /// A policy that the device cannot decide; sizes beyond what the kernels take; too little memory.
    pub fn new(
        weights: Arc<DeviceWeights>,
        policy: &dyn EvictionPolicy,
        options: DeviceOptions,
    ) -> Result<Self, ModelError> {
        let (device, config) = (weights.device.clone(), &weights.config);
        let rules = DeviceRules::new(&device, config, weights.dtype, policy)?;
        let ranking = ranker::accepted(policy, config)?;
        check_cache(options.kv_dtype, policy.needs())?;
        let (cache, codes) = Specialisation::of_cache(options.kv_dtype);
        let groups = if policy.per_head() { config.kv_heads } else { 1 };
        let specialisation = Specialisation {
            weights: weights.dtype,
            cache,
            codes,
            query_heads: config.heads,
            kv_heads: config.kv_heads,
            groups,
            head_dim: config.head_dim,
            hidden: config.hidden,
            side_width: side_width(policy),
            statistics: ranker::statistics(ranking.as_ref()),
        };
        let needs = policy.needs();
        let loaded = needed(&specialisation, &rules, ranking.as_ref(), needs, &weights);
        Module::compile_missing(&device, &loaded)?;
        let kernels = Kernels::new(&device, &specialisation, &weights, &options, &rules)?;
        // A sequence that decodes may share a step with a chunk.
        let rows = options.chunk + options.max_batch;
        let logit_rows = options.logit_rows.max(options.max_batch);
        let gate_width = rules.gates.as_ref().map_or(0, DeviceGates::outputs);
        let logits = (logit_rows, weights.head().outputs());
        let scratch = DeviceScratch::new(&device, config, weights.dtype, rows, logits, gate_width)?;
        let rope = match &weights.rope {
            None => None,
            Some((frequencies, scaling)) => {
                let table =
                    DeviceRope::table(&device, &specialisation, frequencies, *scaling, config.max_positions)?;
                Some((table, frequencies.len()))
            }
        };
        let batch = options.max_batch;
        let zeroed = |len: usize| DeviceBuffer::<u32>::zeroed(&device, "sampling", len);
        let sampling = SamplingBuffers {
            slots: zeroed(batch)?,
            randoms: DeviceBuffer::zeroed(&device, "sampling", batch)?,
            tokens: zeroed(batch)?,
        };
        let inputs = DeviceStep::new(&device, config.layers, groups, rows, batch)?;
        let status = zeroed(StepStatus::words(batch))?;
        let status_host = PinnedBuffer::zeroed(&device, StepStatus::words(batch))?;
        let size = RankingSize { rows, spans: batch, layers: config.layers, positions: config.max_positions };
        let pairs = rope.as_ref().map_or(0, |(_, pairs)| *pairs);
        let most_pages = options.kv_limit.map_or(usize::MAX, |limit| limit / specialisation.page_bytes());
        let ranker = ranking
            .map(|ranking| Ranker::new(&device, &specialisation, ranking, size, most_pages, pairs))
            .transpose()?;
        let (per_slot, all) = (config.layers * groups, batch + options.kept);
        let places = Places::new(&device, &specialisation, config, all, needs)?;
        let changes =
            needs.layers.then(|| Changes::new(&device, &specialisation, config, (rows, all))).transpose()?;
        let pool = PoolShape {
            page_bytes: specialisation.page_bytes(),
            lanes: all * per_slot,
            max_positions: config.max_positions,
            deaths: options.deaths,
        };
        // Last, so that all else has been taken off. A tenth stays for what the driver and others still want.
        let capacity = pool.pages(device.memory()?.0 / 10 * 9, options.kv_limit);
        let max_entries = pool.max_entries(capacity);
        let lanes = DeviceLanes::new(&device, &specialisation, config.layers, all, max_entries, capacity)?;
        let deaths = options.deaths.then(|| Deaths::new(&device, pool.told_deaths(capacity))).transpose()?;
        Ok(Self {
            rules,
            ranker,
            places,
            changes,
            needs,
            kernels,
            rope,
            scratch,
            inputs,
            sampling,
            status,
            status_host,
            deaths,
            graphs: BTreeMap::new(),
            lanes,
            slots: Slots::new(0..batch),
            kept: Slots::new(batch..all),
            states: vec![SlotState::empty(per_slot); all],
            free_pages: capacity,
            peak_pages: 0,
            options,
            weights,
        })
    }

    /// The architecture.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.weights.config
    }

    /// What its policy asks of those who cut a text into steps.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// What it was made with.
    #[must_use]
    pub fn options(&self) -> &DeviceOptions {
        &self.options
    }

    /// Lanes of each layer of a sequence: 1, or the KV heads.
    #[must_use]
    pub fn groups(&self) -> usize {
        self.lanes.specialisation().groups
    }

    /// Pages of the whole pool.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.lanes.capacity()
    }

    /// Bytes of one page, what the cache knows of its entries included.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.lanes.specialisation().page_bytes()
    }

    /// Bytes of one live entry of a lane.
    #[must_use]
    pub fn entry_bytes(&self) -> usize {
        self.lanes.specialisation().entry_bytes()
    }

    /// Bytes of the keys and values of one entry of a lane.
    #[must_use]
    pub fn key_value_bytes(&self) -> usize {
        self.lanes.specialisation().key_value_bytes()
    }

    /// The most pages that were ever held at the end of a step.
    #[must_use]
    pub fn peak_pages(&self) -> usize {
        self.peak_pages
    }

    /// Pages that a step can take now.
    ///
    /// # Errors
    /// A failed device.
    pub fn free_pages(&mut self) -> Result<usize, ModelError> {
        self.clear_left()?;
        Ok(self.free_pages)
    }

    /// A place for one more sequence, if there is one.
    ///
    /// # Errors
    /// A failed device.
    pub fn open(&mut self) -> Result<Option<Slot>, ModelError> {
        self.clear_left()?;
        let slot = self.slots.take();
        if let Some(slot) = &slot {
            let number = slot.index() as usize;
            self.states[number] = SlotState::empty(self.lanes_per_slot());
            self.forget_place(number)?;
            self.forget_changes(number)?;
        }
        Ok(slot)
    }

    /// How tokens of a sequence are chosen from now on; `text` is what a repetition penalty already counts.
    ///
    /// # Errors
    /// A failed device.
    pub fn sample_with(
        &mut self,
        slot: &Slot,
        sampling: SlotSampling,
        text: &[u32],
    ) -> Result<(), ModelError> {
        let (number, penalised) = (self.number(slot)?, sampling.repetition_penalty != 1.0);
        self.kernels.sampler.set(number, sampling)?;
        if penalised {
            self.kernels.sampler.seen(number, text)?;
        }
        Ok(())
    }

    /// What is known of a sequence's cache since its last step.
    ///
    /// # Errors
    /// A slot of another decoder.
    pub fn state(&self, slot: &Slot) -> Result<SlotState, ModelError> {
        Ok(self.states[self.number(slot)?])
    }

    /// Live entries of each layer of a sequence, summed over its lanes.
    ///
    /// # Errors
    /// A slot of another decoder, a failed device.
    pub fn live_entries(&self, slot: &Slot) -> Result<Vec<u64>, ModelError> {
        let (number, per_slot) = (self.number(slot)?, self.lanes_per_slot());
        let lengths = self.lanes.lengths()?;
        let own = &lengths[number * per_slot..][..per_slot];
        Ok(own.chunks(self.groups()).map(|layer| layer.iter().map(|&live| u64::from(live)).sum()).collect())
    }

    /// Positions and lifetimes of the live entries of every lane `[layers * groups]` of a sequence.
    ///
    /// # Errors
    /// A slot of another decoder, a failed device.
    pub fn lifetimes(&self, slot: &Slot) -> Result<Vec<LaneLifetimes>, ModelError> {
        Ok(self.kernels.lifetimes.lifetimes_of(&self.lanes, self.number(slot)?)?)
    }

    /// Lanes of a sequence, all layers together.
    pub(super) fn lanes_per_slot(&self) -> usize {
        self.config().layers * self.groups()
    }

    /// The number of a slot that is one of this decoder's.
    pub(super) fn number(&self, slot: &Slot) -> Result<usize, ModelError> {
        if self.slots.own(slot) {
            return Ok(slot.index() as usize);
        }
        Err(ModelError::Slot { index: slot.index(), problem: "belongs to another decoder" })
    }

    /// Refuses more tokens of slots than the pool has pages for.
    pub(super) fn check_pages(&self, growth: &[(usize, usize)]) -> Result<(), ModelError> {
        let (lanes, free) = (self.lanes_per_slot(), self.free_pages);
        let most = |&(slot, tokens): &(usize, usize)| self.states[slot].most_pages(lanes, tokens);
        if growth.iter().map(most).sum::<usize>() <= free {
            return Ok(());
        }
        // Only where it may be too much is the device asked, and waited for.
        let lengths = self.lanes.lengths()?;
        let exact = |&(slot, tokens): &(usize, usize)| pages_for(&lengths[slot * lanes..][..lanes], tokens);
        let wanted = growth.iter().map(exact).sum();
        if wanted <= free {
            return Ok(());
        }
        Err(ModelError::DevicePages { wanted, free, capacity: self.capacity() })
    }

    /// Takes note of what a step has left behind, in the order of its slots: the words of its status.
    pub(super) fn note(&mut self, slots: &[usize], status: &[u32]) -> Result<(), ModelError> {
        let status = StepStatus::new(status);
        self.free_pages = status.free_pages();
        for (i, &slot) in slots.iter().enumerate() {
            let SpanStatus { wanted, pages, live, overflow } = status.span(i);
            self.states[slot] = SlotState { wanted, pages, live, overflow };
        }
        match status.refused() {
            0 => Ok(()),
            lanes => Err(ModelError::LanesRefused { lanes }),
        }
    }

    /// Frees what the sequences that have gone held.
    pub(super) fn clear_left(&mut self) -> Result<(), ModelError> {
        let left = [self.slots.left(), self.kept.left()].concat();
        if !left.is_empty() {
            self.kernels.lifetimes.clear(&self.lanes, &left)?;
            self.free_pages = self.lanes.free_pages()?;
        }
        Ok(())
    }
}

impl Kernels {
    fn new(
        device: &Device,
        specialisation: &Specialisation,
        weights: &DeviceWeights,
        options: &DeviceOptions,
        rules: &DeviceRules,
    ) -> Result<Self, ModelError> {
        let config = &weights.config;
        let voters = rules.gates.as_ref().filter(|gates| gates.voting.is_some()).map(|gates| gates.heads);
        let (batch, positions) = (options.max_batch, config.max_positions);
        // Its kernel counts all slots of the lanes.
        let slots = batch + options.kept;
        let inherit = rules.inherits.map(|_| DeviceInherit::new(device, specialisation, slots, positions));
        let mut matmul = DeviceMatmul::new(device, specialisation)?;
        if let Some(most) = weights.largest_in_blocks() {
            matmul = matmul.with_blocks(most)?;
        }
        Ok(Self {
            embedding: DeviceEmbedding::new(device, specialisation)?,
            norm: DeviceNorm::new(device, specialisation)?,
            append: DeviceAppend::new(device, specialisation)?,
            activation: DeviceActivation::new(device, specialisation)?,
            matmul,
            attention: DeviceAttention::new(device, specialisation, options.max_batch)?,
            lifetimes: DeviceLifetimes::new(device, specialisation)?,
            votes: voters.map(|heads| DeviceVotes::new(device, specialisation, heads)).transpose()?,
            inherit: inherit.transpose()?,
            sampler: DeviceSampler::new(device, options.max_batch, config.vocabulary)?,
        })
    }
}

/// Refuses methods that turn keys where those are codes: what is turned would be coded a second time.
fn check_cache(format: KvFormat, needs: Needs) -> Result<(), ModelError> {
    if format.numbers().is_none() && (needs.renumbers || needs.anchored.is_some()) {
        return Err(ModelError::DeviceCache { format });
    }
    Ok(())
}
