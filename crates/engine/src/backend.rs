//! Where steps run: on the host's threads or on a device.

use std::sync::Arc;

use dropcap_cache::{Death, KvCache, PagePool, PoolUsage};
use dropcap_kernels::Team;
use dropcap_kernels::sampling::SlotSampling;
use dropcap_model::device::{DeviceDecoder, DeviceSegment, Wanted};
use dropcap_model::{Decoder, DecoderConfig, Logits, Scratch, Segment};
use dropcap_policy::EvictionPolicy;

use crate::memory::{DeviceMemory, DeviceShape, SequenceMemory};
use crate::sequence::Sequence;
use crate::{EngineError, Sampling, sample_all};

/// What runs the steps of an engine.
#[derive(Debug)]
pub(crate) enum Backend {
    Host(Box<Host>),
    Device(Box<DeviceDecoder>),
}

/// A decoder on the host, and what it works with.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) decoder: Arc<Decoder>,
    pub(crate) policy: Arc<dyn EvictionPolicy>,
    pub(crate) team: Arc<Team>,
    pub(crate) pool: PagePool,
    pub(crate) scratch: Scratch,
    pub(crate) logits: Vec<f32>,
}

/// One sequence's part of a step.
pub(crate) struct Feed<'a> {
    pub(crate) memory: &'a mut SequenceMemory,
    pub(crate) tokens: &'a [u32],
    pub(crate) prompt_ends: bool,
    /// A number in [0, 1) where a token is wanted.
    pub(crate) random: Option<f32>,
}

/// What a sequence that wanted a token got.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// The number of its row of logits.
    Logits(usize),
    /// The token.
    Token(u32),
    /// The first token whose logit is not finite.
    NotFinite(usize),
}

impl Backend {
    pub(crate) fn config(&self) -> &DecoderConfig {
        match self {
            Self::Host(host) => host.decoder.config(),
            Self::Device(decoder) => decoder.config(),
        }
    }

    /// Pages that a step can take now.
    pub(crate) fn free_pages(&mut self) -> Result<usize, EngineError> {
        match self {
            Self::Host(host) => Ok(host.pool.pages_available()),
            Self::Device(decoder) => Ok(decoder.free_pages()?),
        }
    }

    pub(crate) fn page_bytes(&self) -> usize {
        match self {
            Self::Host(host) => host.pool.layout().bytes(),
            Self::Device(decoder) => decoder.page_bytes(),
        }
    }

    /// What the pages take, all at one moment.
    pub(crate) fn usage(&mut self) -> Result<PoolUsage, EngineError> {
        match self {
            Self::Host(host) => Ok(host.pool.usage()),
            Self::Device(decoder) => {
                let (bytes, capacity) = (decoder.page_bytes(), decoder.capacity());
                Ok(PoolUsage {
                    limit_bytes: Some(capacity * bytes),
                    held_bytes: (capacity - decoder.free_pages()?) * bytes,
                    retained_bytes: 0,
                    peak_bytes: decoder.peak_pages() * bytes,
                })
            }
        }
    }

    /// Memory for a sequence that is about to run; none where all places are taken.
    pub(crate) fn open(
        &mut self,
        sampling: &Sampling,
        text: &[u32],
    ) -> Result<Option<SequenceMemory>, EngineError> {
        match self {
            Self::Host(host) => {
                let lanes = host.decoder.lanes_per_layer(host.policy.as_ref());
                let cache = KvCache::new(&host.pool, host.decoder.config().layers, lanes);
                Ok(Some(SequenceMemory::Host(cache)))
            }
            Self::Device(decoder) => {
                let Some(slot) = decoder.open()? else { return Ok(None) };
                decoder.sample_with(&slot, on_device(sampling), text)?;
                let (state, shape) = (Default::default(), shape(decoder));
                Ok(Some(SequenceMemory::Device(DeviceMemory { slot, next_position: 0, state, shape })))
            }
        }
    }

    /// Live entries of each layer of a sequence.
    pub(crate) fn live_entries(&self, memory: &SequenceMemory) -> Result<Vec<u64>, EngineError> {
        match (self, memory) {
            (Self::Device(decoder), SequenceMemory::Device(memory)) => {
                Ok(decoder.live_entries(&memory.slot)?)
            }
            _ => Ok(memory.live_entries().unwrap_or_else(|| vec![0; self.config().layers])),
        }
    }

    /// Runs one step and gives an answer for every feed that wanted one; `died` hears of every death: number of the
    /// feed, layer, lane.
    pub(crate) fn run(
        &mut self,
        feeds: &mut [Feed<'_>],
        died: &mut dyn FnMut(usize, usize, usize, Death),
    ) -> Result<Vec<Option<Answer>>, EngineError> {
        match self {
            Self::Host(host) => host.run(feeds, died),
            Self::Device(decoder) => run_on_device(decoder, feeds, died),
        }
    }

    /// The next tokens of sequences, given what each was answered in the last step and its number in [0, 1); what the
    /// backend has not chosen itself is chosen on all threads of the host.
    pub(crate) fn choose(&self, asked: &[(&Sequence, Answer, f32)]) -> Vec<Result<u32, EngineError>> {
        match self {
            Self::Host(host) => {
                let draws = asked
                    .iter()
                    .map(|&(sequence, answer, random)| sequence.draw(host.logits_of(answer), random));
                let tokens = sample_all(&host.team, &draws.collect::<Vec<_>>());
                // What the cache could not hold comes first: it explains logits that are not finite, and the others
                // are wrong.
                let checked = asked.iter().zip(tokens).map(|((sequence, ..), token)| {
                    sequence.memory.check_range()?;
                    token
                });
                checked.collect()
            }
            Self::Device(_) => {
                asked.iter().map(|(sequence, answer, _)| token_of(*answer, sequence.text().len())).collect()
            }
        }
    }
}

/// What a device has chosen for the token at `position`.
fn token_of(answer: Answer, position: usize) -> Result<u32, EngineError> {
    match answer {
        Answer::Token(token) => Ok(token),
        // The device tells which one, not its value.
        Answer::NotFinite(token) | Answer::Logits(token) => {
            Err(EngineError::NonFiniteLogits { value: f32::NAN, token, position })
        }
    }
}

impl Host {
    /// A row of logits of the last step.
    fn logits_of(&self, answer: Answer) -> &[f32] {
        let Answer::Logits(row) = answer else { return &[] };
        let vocabulary = self.decoder.config().vocabulary;
        self.logits.get(row * vocabulary..(row + 1) * vocabulary).unwrap_or_default()
    }

    fn run(
        &mut self,
        feeds: &mut [Feed<'_>],
        died: &mut dyn FnMut(usize, usize, usize, Death),
    ) -> Result<Vec<Option<Answer>>, EngineError> {
        let mut rows = 0..;
        let answers =
            feeds.iter().map(|feed| feed.random.and_then(|_| rows.next()).map(Answer::Logits)).collect();
        let mut segments: Vec<Segment<'_>> = feeds
            .iter_mut()
            .filter_map(|feed| {
                let logits = if feed.random.is_some() { Logits::Last } else { Logits::None };
                let (ids, prompt_ends) = (feed.tokens, feed.prompt_ends);
                let SequenceMemory::Host(cache) = &mut *feed.memory else { return None };
                Some(Segment { cache, ids, prompt_ends, logits })
            })
            .collect();
        let (policy, scratch, logits) = (self.policy.as_ref(), &mut self.scratch, &mut self.logits);
        self.decoder.forward(&self.team, policy, &mut segments, scratch, died, logits)?;
        Ok(answers)
    }
}

fn run_on_device(
    decoder: &mut DeviceDecoder,
    feeds: &mut [Feed<'_>],
    died: &mut dyn FnMut(usize, usize, usize, Death),
) -> Result<Vec<Option<Answer>>, EngineError> {
    let segments: Vec<DeviceSegment<'_>> = feeds
        .iter()
        .filter_map(|feed| {
            let SequenceMemory::Device(memory) = &*feed.memory else { return None };
            Some(DeviceSegment {
                slot: &memory.slot,
                ids: feed.tokens,
                first_position: memory.next_position,
                prompt_ends: feed.prompt_ends,
                wanted: feed.random.map_or(Wanted::Nothing, |random| Wanted::Token { random }),
            })
        })
        .collect();
    let outcome = decoder.step(&segments)?;
    for death in &outcome.deaths {
        let feed = segments.iter().position(|segment| segment.slot.index() == death.slot);
        let Some(feed) = feed else { continue };
        let (position, expires_at, killer) = (death.position, death.expires_at, death.killer);
        died(feed, death.layer as usize, death.group as usize, Death { position, expires_at, killer });
    }
    for (feed, state) in feeds.iter_mut().zip(&outcome.states) {
        if let SequenceMemory::Device(memory) = &mut *feed.memory {
            memory.next_position += feed.tokens.len() as u32;
            memory.state = *state;
        }
    }
    let answer = |token: Option<Result<u32, usize>>| {
        token.map(|token| token.map_or_else(Answer::NotFinite, Answer::Token))
    };
    Ok(outcome.tokens.into_iter().map(answer).collect())
}

/// The same choices in the words of the device.
fn on_device(sampling: &Sampling) -> SlotSampling {
    SlotSampling {
        temperature: sampling.temperature,
        top_k: u32::try_from(sampling.top_k).unwrap_or(u32::MAX),
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
    }
}

/// What the numbers of a slot mean.
pub(crate) fn shape(decoder: &DeviceDecoder) -> DeviceShape {
    let (config, groups) = (decoder.config(), decoder.groups());
    DeviceShape {
        lanes: config.layers * groups,
        page_bytes: decoder.page_bytes(),
        entry_bytes: decoder.entry_bytes(),
        key_value_bytes: 2 * config.key_width() / groups * decoder.options().kv_dtype.bytes(),
    }
}
