//! A decoder on a device.

use std::sync::Arc;

use dropcap_cache::{Death, PoolUsage};
use dropcap_kernels::Team;
use dropcap_kernels::sampling::SlotSampling;
use dropcap_model::DecoderConfig;
use dropcap_model::device::{DeviceDecoder, DeviceOptions, DeviceRows, DeviceSegment, DeviceWeights, Wanted};
use dropcap_policy::EvictionPolicy;

use super::rows::{self, ROWS, Row};
use super::{Answer, DeathSink, Feed, Given};
use crate::demand::PoolSize;
use crate::memory::{DeviceMemory, SequenceMemory};
use crate::{EngineError, EngineOptions, Sampling};

/// A decoder on a device, and what the host knows of its pool.
#[derive(Debug)]
pub(crate) struct Device {
    decoder: DeviceDecoder,
    free_pages: usize,
    /// Reads rows of logits, from the first request that asks for log-probabilities on.
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
        };
        let decoder = DeviceDecoder::new(weights, policy, options)?;
        Ok(Self { free_pages: decoder.capacity(), decoder, team: None })
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

    pub(super) fn open(
        &mut self,
        sampling: &Sampling,
        text: &[u32],
    ) -> Result<Option<SequenceMemory>, EngineError> {
        let Some(slot) = self.decoder.open()? else { return Ok(None) };
        self.decoder.sample_with(&slot, in_its_words(sampling), text)?;
        Ok(Some(SequenceMemory::Device(DeviceMemory::new(slot, &self.decoder))))
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
        let wants_rows = |feed: &Feed<'_>| {
            !feed.targets.tokens.is_empty() || feed.draw.as_ref().is_some_and(|next| next.top.is_some())
        };
        if self.team.is_none() && feeds.iter().any(wants_rows) {
            self.team = Some(Team::new(std::thread::available_parallelism().map_or(1, usize::from))?);
        }
        let segments = feeds.iter().map(segment).collect::<Result<Vec<_>, _>>()?;
        let mut answers: Vec<Answer> = feeds.iter().map(|_| Ok(Given::default())).collect();
        let vocabulary = self.decoder.config().vocabulary;
        let (team, fed) = (self.team.as_ref(), &*feeds);
        let mut scored = |rows: DeviceRows<'_>| {
            let feed = rows.segment;
            if let (Some(Ok(token)), Ok(given)) = (rows.drawn, &mut answers[feed])
                && given.token.is_none()
            {
                given.token = Some((token, None));
            }
            let each = rows.logits.chunks_exact(vocabulary).zip(rows.first_row..);
            let each: Vec<Row<'_>> = each.map(|(logits, row)| Row { feed, row, logits }).collect();
            if let Some(team) = team {
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
    let told = feed.draw.as_ref().is_some_and(|next| next.top.is_some());
    let wanted = match (feed.first_row(), random) {
        (Some(from), random) if told || !feed.targets.tokens.is_empty() => Wanted::Logits { from, random },
        (_, Some(random)) => Wanted::Token { random },
        (_, None) => Wanted::Nothing,
    };
    Ok(DeviceSegment {
        slot: &memory.slot,
        ids: feed.tokens,
        first_position: memory.next_position,
        stage: feed.stage,
        wanted,
    })
}

/// Refuses what the device's sampler does not know.
pub(super) fn check_sampling(sampling: &Sampling) -> Result<(), EngineError> {
    let unknown = [
        ("frequency_penalty", sampling.frequency_penalty != 0.0),
        ("presence_penalty", sampling.presence_penalty != 0.0),
        ("logit_bias", !sampling.logit_bias.is_empty()),
    ];
    match unknown.into_iter().find(|&(_, used)| used) {
        Some((name, _)) => Err(EngineError::NotOnDevice { name }),
        None => Ok(()),
    }
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
