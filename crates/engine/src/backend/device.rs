//! A decoder on a device.

use std::sync::Arc;

use dropcap_cache::{Death, PoolUsage};
use dropcap_kernels::Team;
use dropcap_kernels::sampling::SlotSampling;
use dropcap_model::DecoderConfig;
use dropcap_model::device::{
    DeviceDecoder, DeviceOptions, DeviceRows, DeviceSegment, DeviceWeights, KeptCache, Wanted,
};
use dropcap_policy::{Action, EvictionPolicy};

use super::rows::{self, ROWS, Row};
use super::{Answer, DeathSink, Feed, Given};
use crate::demand::PoolSize;
use crate::memory::{DeviceMemory, KeptMemory, SequenceMemory};
use crate::prefix::Sharing;
use crate::{EngineError, EngineOptions, Sampling};

/// Most beginnings that are kept: each has page tables for a text of the model's length.
const KEPT: usize = 32;

/// A decoder on a device, and what the host knows of its pool.
#[derive(Debug)]
pub(crate) struct Device {
    decoder: DeviceDecoder,
    free_pages: usize,
    /// Whether lifetimes at birth follow a window, the same for all texts.
    has_window: bool,
    sharing: Sharing,
    /// Reads rows of logits, from the first request on that asks for log-probabilities or for what the device's sampler
    /// does not know.
    team: Option<Team>,
}

impl Device {
    /// `traced` says whether steps tell of every death.
    pub(crate) fn new(
        weights: Arc<DeviceWeights>,
        policy: &dyn EvictionPolicy,
        options: &EngineOptions,
        traced: bool,
    ) -> Result<Self, EngineError> {
        let options = DeviceOptions {
            kv_dtype: options.kv_dtype,
            kv_limit: options.kv_limit,
            chunk: options.chunk,
            max_batch: options.max_batch,
            deaths: traced,
            logit_rows: ROWS,
            kept: if options.prefix_bytes > 0 && !traced { KEPT } else { 0 },
        };
        let decoder = DeviceDecoder::new(weights, policy, options)?;
        let is_window = |rule: &dropcap_policy::Rule| matches!(rule.action, Action::Window { .. });
        let has_window = policy.rules().is_some_and(|rules| rules.iter().any(is_window));
        let sharing = Sharing::of(policy, decoder.config().sliding_window.iter().any(Option::is_some));
        Ok(Self { free_pages: decoder.capacity(), decoder, has_window, sharing, team: None })
    }

    pub(super) fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    pub(super) fn pool(&self) -> PoolSize {
        let (pages, page_bytes) = (self.decoder.capacity(), self.decoder.page_bytes());
        // What the user has said, unless the device has less or its sequences can never use so much.
        let cap = self.decoder.options().kv_limit.filter(|limit| limit / page_bytes == pages);
        PoolSize { pages, page_bytes, limit_bytes: cap.unwrap_or(pages * page_bytes) }
    }

    pub(super) fn free_pages(&self) -> usize {
        self.free_pages
    }

    pub(super) fn usage(&self) -> PoolUsage {
        let (capacity, bytes) = (self.decoder.capacity(), self.decoder.page_bytes());
        PoolUsage {
            limit_bytes: Some(capacity * bytes),
            held_bytes: (capacity - self.free_pages) * bytes,
            retained_bytes: 0,
            peak_bytes: self.decoder.peak_pages() * bytes,
        }
    }

    pub(super) fn check_budget(&self) -> Result<(), EngineError> {
        if self.has_window { Err(EngineError::BudgetOnDevice) } else { Ok(()) }
    }

    pub(super) fn open(
        &mut self,
        sampling: &Sampling,
        text: &[u32],
    ) -> Result<Option<SequenceMemory>, EngineError> {
        let Some(slot) = self.decoder.open()? else { return Ok(None) };
        // What the host draws costs the device as little as can be.
        let drawn_here = Sampling::default();
        let sampling = if draws_on_host(sampling) { &drawn_here } else { sampling };
        self.decoder.sample_with(&slot, in_its_words(sampling), text)?;
        Ok(Some(SequenceMemory::Device(DeviceMemory::new(slot, &self.decoder))))
    }

    pub(super) fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Most beginnings that there is a place for.
    pub(super) fn kept(&self) -> usize {
        self.decoder.options().kept
    }

    /// Keeps a copy of a cache, or the cache itself if its sequence is over.
    pub(super) fn keep(
        &mut self,
        memory: &DeviceMemory,
        is_over: bool,
    ) -> Result<Option<KeptMemory>, EngineError> {
        let kept = if is_over {
            self.decoder.keep_all(&memory.slot)?
        } else {
            self.decoder.keep_copy(&memory.slot)?
        };
        self.settle()?;
        Ok(kept.map(KeptMemory::Device))
    }

    /// A slot that was just opened with a copy of what is kept of the first `tokens` tokens; without where there is no room.
    pub(super) fn begin_with(
        &mut self,
        mut memory: DeviceMemory,
        kept: &KeptCache,
        tokens: usize,
    ) -> Result<SequenceMemory, EngineError> {
        let part = (self.sharing == Sharing::Dense).then_some(tokens);
        if let Some(state) = self.decoder.begin_with(&memory.slot, kept, part)? {
            (memory.state, memory.next_position) = (state, u32::try_from(tokens).unwrap_or(u32::MAX));
            self.settle()?;
        }
        Ok(SequenceMemory::Device(memory))
    }

    pub(super) fn settle(&mut self) -> Result<(), EngineError> {
        self.free_pages = self.decoder.free_pages()?;
        Ok(())
    }

    pub(super) fn live_entries(&self, memory: &DeviceMemory) -> Result<Vec<u64>, EngineError> {
        Ok(self.decoder.live_entries(&memory.slot)?)
    }

    pub(super) fn run(
        &mut self,
        feeds: &mut [Feed<'_>],
        died: DeathSink<'_>,
    ) -> Result<Vec<Answer>, EngineError> {
        if self.team.is_none() && feeds.iter().any(wants_rows) {
            self.team = Some(Team::new(std::thread::available_parallelism().map_or(1, usize::from))?);
        }
        let segments = feeds.iter().map(segment).collect::<Result<Vec<_>, _>>()?;
        let mut answers: Vec<Answer> = feeds.iter().map(|_| Ok(Given::default())).collect();
        let vocabulary = self.decoder.config().vocabulary;
        let (team, fed) = (self.team.as_ref(), &*feeds);
        let mut scored = |rows: DeviceRows<'_>| {
            let feed = rows.segment;
            let on_host = draws_here(&fed[feed]);
            if let (Some(Ok(token)), Ok(given)) = (rows.drawn, &mut answers[feed])
                && given.token.is_none()
                && !on_host
            {
                given.token = Some((token, None));
            }
            let each = rows.logits.chunks_exact(vocabulary).zip(rows.first_row..);
            let each: Vec<Row<'_>> = each.map(|(logits, row)| Row { feed, row, logits }).collect();
            if let Some(team) = team {
                if on_host {
                    rows::draw(team, fed, &each, &mut answers);
                }
                rows::score(team, fed, &each, &mut answers);
            }
        };
        let outcome = self.decoder.step(&segments, &mut scored)?;
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
        self.settle()?;
        for ((answer, token), feed) in answers.iter_mut().zip(outcome.tokens).zip(feeds.iter()) {
            let (Some(token), Some(next)) = (token, &feed.draw) else { continue };
            match (token, &mut *answer) {
                (Ok(token), Ok(given)) => {
                    given.token.get_or_insert((token, None));
                }
                (Err(token), Ok(_)) => {
                    // The device tells which logit is not finite, not its value.
                    let (value, position) = (f32::NAN, next.text.len());
                    *answer = Err(EngineError::NonFiniteLogits { value, token, position });
                }
                (_, Err(_)) => {}
            }
        }
        // As on the host: what the cache could not hold explains logits that are not finite, and the others are wrong.
        let checked = feeds.iter().zip(answers).map(|(feed, answer)| match feed.first_row() {
            Some(_) => feed.memory.check_range().map_err(EngineError::from).and(answer),
            None => answer,
        });
        Ok(checked.collect())
    }
}

fn segment<'a>(feed: &'a Feed<'_>) -> Result<DeviceSegment<'a>, EngineError> {
    let SequenceMemory::Device(memory) = &*feed.memory else { return Err(EngineError::ForeignMemory) };
    let random = feed.draw.as_ref().map(|next| next.random);
    let wanted = match (feed.first_row(), random) {
        (Some(from), random) if wants_rows(feed) => Wanted::Logits { from, random },
        (_, Some(random)) => Wanted::Token { random },
        (_, None) => Wanted::Nothing,
    };
    Ok(DeviceSegment {
        slot: &memory.slot,
        ids: feed.tokens,
        first_position: memory.next_position,
        stage: feed.stage,
        budget: feed.budget,
        wanted,
    })
}

/// Whether a feed's logits are to come to the host.
fn wants_rows(feed: &Feed<'_>) -> bool {
    let told = feed.draw.as_ref().is_some_and(|next| next.top.is_some());
    told || !feed.targets.tokens.is_empty() || draws_here(feed)
}

/// Whether a feed's token is drawn by the host.
fn draws_here(feed: &Feed<'_>) -> bool {
    feed.draw.as_ref().is_some_and(|next| draws_on_host(next.sampler.sampling()))
}

/// Whether tokens are chosen in a way that the device's sampler does not know; then the host draws from the same logits.
fn draws_on_host(sampling: &Sampling) -> bool {
    let Sampling { frequency_penalty, presence_penalty, logit_bias, .. } = sampling;
    *frequency_penalty != 0.0 || *presence_penalty != 0.0 || !logit_bias.is_empty()
}

/// The same choices in the words of the device.
fn in_its_words(sampling: &Sampling) -> SlotSampling {
    SlotSampling {
        temperature: sampling.temperature,
        top_k: u32::try_from(sampling.top_k).unwrap_or(u32::MAX),
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        repetition_penalty: sampling.repetition_penalty,
    }
}
