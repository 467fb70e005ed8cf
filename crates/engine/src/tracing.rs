//! Writes what the engine does to a trace; deaths are collected per step, because one token often kills many.
//!
//! A trace fails alone: its first failure ends it and is kept for [`Recorder::finish`], and no sequence hears of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use dropcap_cache::Death;
use dropcap_model::Tokenizer;
use dropcap_trace::{Deaths, End, Event, Tokens, TraceWriter};

use crate::EngineError;
use crate::scores::VoteScores;
use crate::sequence::Sequence;
use crate::speller::Speller;

/// The word for a sequence that was given up.
pub(crate) const ERROR: &str = "error";

/// Where a death happened: sequence, layer, head (none where the whole layer decides as one).
type Place = (u64, usize, Option<usize>);

/// Hears every event of a trace as it happens.
pub(crate) type Listener = Box<dyn FnMut(&Event) + Send>;

/// The trace of an engine.
pub(crate) struct Recorder {
    writer: TraceWriter<Box<dyn Write + Send>>,
    deaths: BTreeMap<Place, Vec<Death>>,
    speller: Option<Speller>,
    listener: Option<Listener>,
    scores: Option<VoteScores>,
    /// Scores of entries that are still to die: sequence, layer, lane, position.
    pending: BTreeMap<(u64, usize, usize, u32), f32>,
    /// What ended the trace; nothing is written after it.
    failure: Option<EngineError>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("failure", &self.failure).finish_non_exhaustive()
    }
}

impl Recorder {
    pub(crate) fn new(writer: TraceWriter<Box<dyn Write + Send>>) -> Self {
        Recorder {
            writer,
            deaths: BTreeMap::new(),
            speller: None,
            listener: None,
            scores: None,
            pending: BTreeMap::new(),
            failure: None,
        }
    }

    /// Lets tokens have their texts from now on.
    pub(crate) fn spell(&mut self, tokenizer: Arc<Tokenizer>) {
        self.speller = Some(Speller::new(tokenizer));
    }

    /// Tells every event from now on, also those that can no longer be written.
    pub(crate) fn tell(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Lets deaths have the scores of the votes that decided them.
    pub(crate) fn score(&mut self, scores: VoteScores) {
        self.scores = Some(scores);
    }

    /// Takes the scores of the step that has just run over the sequences `ids`.
    pub(crate) fn scored(&mut self, ids: &[u64]) {
        for ((feed, layer, lane, position), score) in self.scores.iter().flat_map(VoteScores::take) {
            if let Some(&id) = ids.get(feed).filter(|_| score.is_finite()) {
                self.pending.insert((id, layer, lane, position), score);
            }
        }
    }

    /// Writes that a sequence begins, once.
    pub(crate) fn begin(&mut self, sequence: &mut Sequence) {
        if !std::mem::replace(&mut sequence.announced, true) {
            let (id, prompt_tokens) = (sequence.id.0, sequence.prompt_tokens());
            self.write(&Event::Sequence(dropcap_trace::Sequence { id, prompt_tokens }));
        }
    }

    pub(crate) fn died(&mut self, id: u64, layer: usize, head: Option<usize>, death: Death) {
        if self.failure.is_none() || self.listener.is_some() {
            self.deaths.entry((id, layer, head)).or_default().push(death);
        }
    }

    /// Writes the tokens that went in since the trace last heard of the sequence.
    pub(crate) fn fed(&mut self, sequence: &mut Sequence) {
        let (first_position, next) = (sequence.traced, sequence.memory.next_position());
        if next > first_position {
            sequence.traced = next;
            let (id, ids) =
                (sequence.id.0, sequence.fed(first_position, (next - first_position) as usize).to_vec());
            match self.speller.as_mut().map(|speller| speller.texts(id, &ids)).transpose() {
                Ok(texts) => self.write(&Event::Tokens(Tokens { id, first_position, ids, texts })),
                Err(error) => self.fail(error.into()),
            }
        }
    }

    /// Writes the deaths collected since the last call.
    pub(crate) fn end_step(&mut self) {
        for ((id, layer, head), deaths) in std::mem::take(&mut self.deaths) {
            let deaths = deaths.iter().map(|death| (death.position, death.expires_at, death.killer));
            let mut deaths = Deaths::collect(id, layer, head, deaths);
            if self.scores.is_some() {
                let lane = head.unwrap_or(0);
                let score = |&position: &u32| self.pending.remove(&(id, layer, lane, position));
                deaths.scores = Some(deaths.positions.iter().map(score).collect());
            }
            self.write(&Event::Deaths(deaths));
        }
    }

    /// Forgets the deaths of a step that failed.
    pub(crate) fn drop_step(&mut self) {
        self.deaths.clear();
    }

    /// Writes that a sequence is over, also one that never came to run; `live` are its entries in each layer.
    pub(crate) fn end(&mut self, sequence: &mut Sequence, live: Result<Vec<u64>, EngineError>, reason: &str) {
        self.begin(sequence);
        let id = sequence.id.0;
        if let Some(speller) = &mut self.speller {
            speller.forget(id);
        }
        if self.scores.is_some() {
            self.pending.retain(|&(of, ..), _| of != id);
        }
        match live {
            Ok(live) => {
                self.write(&Event::End(End { id: sequence.id.0, finish_reason: reason.into(), live }))
            }
            Err(error) => self.fail(error),
        }
        if self.failure.is_none()
            && let Err(error) = self.writer.flush()
        {
            self.fail(error.into());
        }
    }

    /// Hands all of the trace to its sink, or says what ended it.
    pub(crate) fn finish(self) -> Result<(), EngineError> {
        match self.failure {
            Some(failure) => Err(failure),
            None => Ok(self.writer.finish().map(drop)?),
        }
    }

    fn write(&mut self, event: &Event) {
        if let Some(listener) = &mut self.listener {
            listener(event);
        }
        if self.failure.is_none()
            && let Err(error) = self.writer.write(event)
        {
            self.fail(error.into());
        }
    }

    fn fail(&mut self, error: EngineError) {
        self.deaths.clear();
        self.failure.get_or_insert(error);
    }
}
