//! A text on its way through a model: what goes in, the logits of what went in last, and what was forgotten.

use std::ops::Range;

use dropcap_cache::{Death, KvCache, LayerIdx, NEVER, PagePool};
use dropcap_kernels::Team;
use dropcap_model::device::{DeviceDecoder, DeviceSegment, Wanted};
use dropcap_model::{Decoder, Logits, Scratch, Segment};
use dropcap_policy::{EvictionPolicy, Needs, Stage};

use crate::memory::DeviceMemory;
use crate::sampler::check_finite;
use crate::{EngineError, Evaluation, Shortage};

/// One text that is read step by step under one policy, on the host or on a device. Several can go forward side by side,
/// so that what two policies make of a text is compared without holding all its logits.
#[derive(Debug)]
pub struct Reading<'a> {
    place: Place<'a>,
    /// Tokens of the whole text.
    tokens: usize,
    /// Tokens that are in.
    fed: usize,
    /// Whether a prompt has ended.
    behind: bool,
    /// Those of them that the last feed brought, and of these the first whose logits are wanted.
    last: usize,
    from: usize,
    lanes: usize,
    /// As in [`Evaluation`].
    expires_at: Vec<Vec<u32>>,
    /// f32 `[rows, v]`: on the host those that were asked for last, on a device those of the last feed that are wanted.
    logits: Vec<f32>,
}

#[derive(Debug)]
enum Place<'a> {
    Host {
        decoder: &'a Decoder,
        team: &'a Team,
        policy: &'a dyn EvictionPolicy,
        cache: KvCache,
        scratch: Box<Scratch>,
    },
    Device {
        decoder: &'a mut DeviceDecoder,
        memory: DeviceMemory,
    },
}

impl<'a> Reading<'a> {
    /// Begins a text of `tokens` tokens on the host's threads.
    #[must_use]
    pub fn on_host(
        decoder: &'a Decoder,
        team: &'a Team,
        policy: &'a dyn EvictionPolicy,
        pool: &PagePool,
        tokens: usize,
    ) -> Self {
        let (layers, lanes) = (decoder.config().layers, decoder.lanes_per_layer(policy));
        let cache = KvCache::new(pool, layers, lanes);
        Self::begin(
            Place::Host { decoder, team, policy, cache, scratch: Box::default() },
            layers,
            lanes,
            tokens,
        )
    }

    /// Begins a text of `tokens` tokens on a device, whose decoder must tell of deaths
    /// ([`dropcap_model::device::DeviceOptions::deaths`]).
    ///
    /// # Errors
    /// No free slot; a failed device.
    pub fn on_device(decoder: &'a mut DeviceDecoder, tokens: usize) -> Result<Self, EngineError> {
        let (layers, lanes) = (decoder.config().layers, decoder.groups());
        let Some(slot) = decoder.open()? else {
            return Err(EngineError::Option { name: "free slots", given: 0, minimum: 1 });
        };
        let memory = DeviceMemory::new(slot, decoder);
        Ok(Self::begin(Place::Device { decoder, memory }, layers, lanes, tokens))
    }

    fn begin(place: Place<'a>, layers: usize, lanes: usize, tokens: usize) -> Self {
        let expires_at = vec![vec![NEVER; lanes * tokens]; layers];
        Self { place, tokens, fed: 0, behind: false, last: 0, from: 0, lanes, expires_at, logits: Vec::new() }
    }

    /// What the method asks of those who cut the text.
    #[must_use]
    pub fn needs(&self) -> Needs {
        match &self.place {
            Place::Host { policy, .. } => policy.needs(),
            Place::Device { decoder, .. } => decoder.needs(),
        }
    }

    /// Feeds the next tokens of the text; `prompt_ends` says whether the last of them ends what counts as the prompt. Of these
    /// tokens only those from row `from` on may be asked for their logits, which a device brings back for no others.
    ///
    /// # Errors
    /// A prompt whose last tokens, as many as the method must see together ([`Needs::together`]), come in several feeds.
    /// No tokens, one outside the vocabulary, more than the text or the model has; an exhausted pool; a number that the
    /// cache's format cannot hold; on a device a logit that is not finite, and a failure of the device.
    pub fn feed(&mut self, ids: &[u32], prompt_ends: bool, from: usize) -> Result<(), EngineError> {
        if ids.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if ids.len() > self.tokens - self.fed {
            return Err(EngineError::PromptTooLong { given: self.fed + ids.len(), limit: self.tokens });
        }
        let stage = match (prompt_ends, self.behind) {
            (true, _) => Stage::PromptEnd,
            (false, true) => Stage::Behind,
            (false, false) => Stage::Prompt,
        };
        let needed = self.needs().together(self.fed + ids.len());
        if prompt_ends && needed > ids.len() {
            return Err(EngineError::Together { needed, chunk: ids.len() });
        }
        let (tokens, expires_at) = (self.tokens, &mut self.expires_at);
        let mut died = |layer: usize, lane: usize, position: u32, end: u32| {
            expires_at[layer][lane * tokens + position as usize] = end;
        };
        match &mut self.place {
            Place::Host { decoder, team, policy, cache, scratch } => {
                let mut segments = [Segment { cache, ids, stage, budget: None, logits: Logits::None }];
                let mut died = |_, layer: usize, lane: usize, death: Death| {
                    died(layer, lane, death.position, death.expires_at);
                };
                decoder.run(team, *policy, &mut segments, scratch, &mut died)?;
                cache.check_range()?;
            }
            Place::Device { decoder, memory } => {
                self.logits.clear();
                feed_device(decoder, memory, ids, stage, from, &mut self.logits, &mut died)?;
            }
        }
        self.behind |= prompt_ends;
        self.fed += ids.len();
        (self.last, self.from) = (ids.len(), from);
        Ok(())
    }

    /// Logits of some of the tokens that were fed last, f32 `[rows, v]`; the first of those is row 0.
    ///
    /// # Errors
    /// Rows that the last feed did not have, or has not for the asking; a logit that is not finite.
    pub fn logits(&mut self, rows: Range<usize>) -> Result<&[f32], EngineError> {
        if rows.start < self.from || rows.end > self.last {
            let given = if rows.start < self.from { rows.start } else { rows.end };
            return Err(EngineError::PromptTooLong { given, limit: self.last });
        }
        let first = self.fed - self.last + rows.start;
        match &mut self.place {
            Place::Host { decoder, team, scratch, .. } => {
                decoder.project(team, scratch, rows, &mut self.logits)?;
                check_rows(&self.logits, decoder.config().vocabulary, first)?;
                Ok(&self.logits)
            }
            Place::Device { decoder, .. } => {
                let vocabulary = decoder.config().vocabulary;
                let range = (rows.start - self.from) * vocabulary..(rows.end - self.from) * vocabulary;
                self.logits.get(range).ok_or(EngineError::PromptTooLong { given: rows.end, limit: self.last })
            }
        }
    }

    /// When each token was forgotten, and the cache as it stands at the end.
    ///
    /// # Errors
    /// A failed device.
    pub fn finish(self) -> Result<Evaluation, EngineError> {
        let Self { place, tokens, lanes, mut expires_at, .. } = self;
        let report = match place {
            Place::Host { cache, .. } => {
                for (layer, lifetimes) in expires_at.iter_mut().enumerate() {
                    for (index, lane) in cache.lanes(LayerIdx(layer)).iter().enumerate() {
                        for (&position, &end) in lane.positions().iter().zip(lane.expires_at()) {
                            lifetimes[index * tokens + position as usize] = end;
                        }
                    }
                }
                cache.report()
            }
            Place::Device { decoder, memory } => {
                for (lane, (positions, lifetimes)) in decoder.lifetimes(&memory.slot)?.iter().enumerate() {
                    for (&position, &end) in positions.iter().zip(lifetimes) {
                        expires_at[lane / lanes][lane % lanes * tokens + position as usize] = end;
                    }
                }
                memory.report()
            }
        };
        Ok(Evaluation { logits: Vec::new(), expires_at, lanes, report })
    }
}

/// Feeds a device as much at a time as it has pages for, and appends the logits of the tokens from `from` on.
fn feed_device(
    decoder: &mut DeviceDecoder,
    memory: &mut DeviceMemory,
    ids: &[u32],
    stage: Stage,
    from: usize,
    logits: &mut Vec<f32>,
    died: &mut dyn FnMut(usize, usize, u32, u32),
) -> Result<(), EngineError> {
    let (mut rest, vocabulary) = (ids, decoder.config().vocabulary);
    while !rest.is_empty() {
        let first_position = memory.next_position;
        let free = decoder.free_pages()?;
        let mut count = rest.len().min(decoder.options().chunk);
        while count > 1 && memory.pages_wanted(count) > free {
            count /= 2;
        }
        if stage == Stage::PromptEnd {
            // What must come together does, or finds no pages.
            count = match decoder.needs().cut(ids.len(), ids.len() - rest.len(), count) {
                0 => rest.len(),
                whole => whole,
            };
        }
        let pages = memory.pages_wanted(count);
        if pages > free {
            let page_bytes = decoder.page_bytes();
            return Err(EngineError::OutOfMemory(Shortage {
                tokens: (first_position as usize).max(1),
                held_pages: memory.state.pages,
                wanted_pages: pages,
                lanes: decoder.config().layers * decoder.groups(),
                page_bytes,
                limit_bytes: decoder.capacity() * page_bytes,
            }));
        }
        let (part, after) = rest.split_at(count);
        let from = from.saturating_sub(ids.len() - rest.len());
        let segment = DeviceSegment {
            slot: &memory.slot,
            ids: part,
            first_position,
            stage: if stage == Stage::PromptEnd && !after.is_empty() { Stage::Prompt } else { stage },
            budget: None,
            wanted: if from < count { Wanted::Logits { from, random: None } } else { Wanted::Nothing },
        };
        let begin = logits.len();
        let outcome = decoder.step(&[segment], &mut |rows| logits.extend_from_slice(rows.logits))?;
        for death in &outcome.deaths {
            died(death.layer as usize, death.group as usize, death.position, death.expires_at);
        }
        memory.next_position += part.len() as u32;
        memory.state = outcome.states.first().copied().unwrap_or_default();
        memory.check_range()?;
        check_rows(&logits[begin..], vocabulary, first_position as usize + from)?;
        rest = after;
    }
    Ok(())
}

/// Refuses rows of logits `[rows, v]`, of the tokens from position `first` on, that are not all finite.
fn check_rows(logits: &[f32], vocabulary: usize, first: usize) -> Result<(), EngineError> {
    logits.chunks(vocabulary).zip(first + 1..).try_for_each(|(row, next)| check_finite(row, next))
}
