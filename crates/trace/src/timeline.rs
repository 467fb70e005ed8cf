//! A whole trace in memory: what became of every entry.

use std::collections::BTreeMap;
use std::io::BufRead;

use crate::order::Refusal;
use crate::{Deaths, End, Event, Granularity, TraceError, TraceHeader, TraceReader};

/// How an entry died.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fate {
    /// The first query position that no longer saw it.
    pub expires_at: u32,
    /// The query that killed it.
    pub killer: u32,
    /// The score of the vote that killed it, where the trace says it.
    pub score: Option<f32>,
}

/// One sequence of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct SequenceTimeline {
    /// How many of its tokens are the prompt.
    pub prompt_tokens: usize,
    /// Token ids by position `[t]`.
    pub ids: Vec<u32>,
    /// Texts by position `[t]`; nothing where the writer gave none.
    pub texts: Vec<Option<String>>,
    /// How it ended; nothing when the trace stops before.
    pub end: Option<End>,
    granularity: Granularity,
    /// (layer, head or 0, position)
    fates: BTreeMap<(usize, usize, u32), Fate>,
}

impl SequenceTimeline {
    /// How the entry of (layer, KV head, position) died; nothing when it lived to the end of the trace. Where
    /// all heads of a layer share an entry, every head gets the same answer.
    pub fn fate(&self, layer: usize, head: usize, position: u32) -> Option<Fate> {
        self.fates.get(&(layer, self.lane(head), position)).copied()
    }

    /// Whether a query saw an entry: `position <= query < expires_at`.
    pub fn visible(&self, layer: usize, head: usize, position: u32, query: u32) -> bool {
        position <= query && self.fate(layer, head, position).is_none_or(|fate| query < fate.expires_at)
    }

    /// All deaths of one layer and KV head as (position, fate), in order of position.
    pub fn fates(&self, layer: usize, head: usize) -> impl Iterator<Item = (u32, Fate)> + '_ {
        let lane = self.lane(head);
        self.fates
            .range((layer, lane, 0)..=(layer, lane, u32::MAX))
            .map(|(&(_, _, position), &fate)| (position, fate))
    }

    fn lane(&self, head: usize) -> usize {
        match self.granularity {
            Granularity::Layer => 0,
            Granularity::KvHead => head,
        }
    }

    fn bury(&mut self, deaths: &Deaths) -> Result<(), Refusal> {
        for (at, (position, expires_at, killer)) in deaths.iter().enumerate() {
            let entry = (deaths.layer, deaths.head.unwrap_or(0), position);
            let score = deaths.scores.as_ref().and_then(|scores| *scores.get(at)?);
            if self.fates.insert(entry, Fate { expires_at, killer, score }).is_some() {
                return Err(Refusal::new("positions", "entries that are still alive", position));
            }
        }
        Ok(())
    }
}

/// Every sequence of a trace by id. Memory grows with the trace; stream with [`TraceReader`] where that is too
/// much.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// What ran.
    pub header: TraceHeader,
    /// The sequences by id.
    pub sequences: BTreeMap<u64, SequenceTimeline>,
}

impl Timeline {
    /// Reads a whole trace; beyond the reader's rules, an entry that dies twice is refused.
    pub fn read(source: impl BufRead) -> Result<Self, TraceError> {
        let (timeline, torn) = Self::read_whole_lines(source)?;
        torn.map_or(Ok(timeline), Err)
    }

    /// [`Timeline::read`] for a trace whose last line may be cut off, as after a crash: gives what stands before it, and
    /// then [`TraceError::CutOff`] beside it.
    pub fn read_whole_lines(source: impl BufRead) -> Result<(Self, Option<TraceError>), TraceError> {
        let mut reader = TraceReader::new(source)?;
        let mut timeline = Self { header: reader.header().clone(), sequences: BTreeMap::new() };
        while let Some(event) = reader.next() {
            match event {
                Err(torn @ TraceError::CutOff { .. }) => return Ok((timeline, Some(torn))),
                event => timeline.absorb(event?).map_err(|refusal| refusal.at(reader.line()))?,
            }
        }
        Ok((timeline, None))
    }

    /// Takes an event that a reader has checked.
    fn absorb(&mut self, event: Event) -> Result<(), Refusal> {
        if let Event::Sequence(event) = event {
            let sequence = SequenceTimeline {
                prompt_tokens: event.prompt_tokens,
                ids: Vec::new(),
                texts: Vec::new(),
                end: None,
                granularity: self.header.granularity,
                fates: BTreeMap::new(),
            };
            self.sequences.insert(event.id, sequence);
            return Ok(());
        }
        let id = event.id();
        let sequence = self
            .sequences
            .get_mut(&id)
            .ok_or_else(|| Refusal::new("id", "a sequence that has begun and not ended", id))?;
        match event {
            Event::Tokens(event) => {
                match event.texts {
                    Some(texts) => sequence.texts.extend(texts.into_iter().map(Some)),
                    None => sequence.texts.extend(event.ids.iter().map(|_| None)),
                }
                sequence.ids.extend(event.ids);
            }
            Event::Deaths(event) => sequence.bury(&event)?,
            Event::End(event) => sequence.end = Some(event),
            Event::Sequence(_) => {}
        }
        Ok(())
    }
}
