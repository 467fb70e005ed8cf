//! A decoder on a device.

use std::sync::Arc;

use dropcap_cache::{Death, PoolUsage};
use dropcap_kernels::sampling::SlotSampling;
use dropcap_model::DecoderConfig;
use dropcap_model::device::{DeviceDecoder, DeviceOptions, DeviceSegment, DeviceWeights, Wanted};
use dropcap_policy::EvictionPolicy;

use super::{Answer, DeathSink, Feed};
use crate::demand::PoolSize;
use crate::memory::{DeviceMemory, SequenceMemory};
use crate::{EngineError, EngineOptions, Sampling};

/// A decoder on a device, and what the host knows of its pool.
#[derive(Debug)]
pub(crate) struct Device {
    decoder: DeviceDecoder,
    free_pages: usize,
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
            logit_rows: 0,
        };
        let decoder = DeviceDecoder::new(weights, policy, options)?;
        Ok(Self { free_pages: decoder.capacity(), decoder })
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
        let segments = feeds.iter().map(segment).collect::<Result<Vec<_>, _>>()?;
        let outcome = self.decoder.step(&segments)?;
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
        let answers = outcome.tokens.into_iter().zip(feeds).map(|(token, feed)| {
            let position = feed.draw.as_ref()?.text.len();
            // The device tells which logit is not finite, not its value.
            let not_finite = |token| EngineError::NonFiniteLogits { value: f32::NAN, token, position };
            token.map(|token| token.map_err(not_finite))
        });
        Ok(answers.collect())
    }
}

fn segment<'a>(feed: &'a Feed<'_>) -> Result<DeviceSegment<'a>, EngineError> {
    let SequenceMemory::Device(memory) = &*feed.memory else { return Err(EngineError::ForeignMemory) };
    let wanted = feed.draw.as_ref().map_or(Wanted::Nothing, |next| Wanted::Token { random: next.random });
    Ok(DeviceSegment {
        slot: &memory.slot,
        ids: feed.tokens,
        first_position: memory.next_position,
        prompt_ends: feed.prompt_ends,
        wanted,
    })
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
