//! Writes what the engine does to a trace; deaths are collected per step, because one token often kills many.

use std::collections::BTreeMap;
use std::io::Write;

use dropcap_cache::Death;
use dropcap_trace::{Deaths, End, Event, Tokens, TraceWriter};

use crate::sequence::Sequence;
use crate::{EngineError, FinishReason};

/// Where a death happened: sequence, layer, head (none where the whole layer decides as one).
type Place = (u64, usize, Option<usize>);

/// The trace of an engine.
pub(crate) struct Recorder {
    writer: TraceWriter<Box<dyn Write + Send>>,
    deaths: BTreeMap<Place, Vec<Death>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("pending", &self.deaths.len()).finish_non_exhaustive()
    }
}

impl Recorder {
    pub(crate) fn new(writer: TraceWriter<Box<dyn Write + Send>>) -> Self {
        Recorder { writer, deaths: BTreeMap::new() }
    }

    pub(crate) fn begin(&mut self, sequence: &Sequence) -> Result<(), EngineError> {
        let (id, prompt_tokens) = (sequence.id.0, sequence.prompt_tokens());
        self.write(Event::Sequence(dropcap_trace::Sequence { id, prompt_tokens }))
    }

    pub(crate) fn died(&mut self, id: u64, layer: usize, head: Option<usize>, death: Death) {
        self.deaths.entry((id, layer, head)).or_default().push(death);
    }

    /// Writes the tokens that went in since the trace last heard of the sequence.
    pub(crate) fn fed(&mut self, sequence: &mut Sequence) -> Result<(), EngineError> {
        let (first_position, next) = (sequence.traced, sequence.memory.next_position());
        if next <= first_position {
            return Ok(());
        }
        sequence.traced = next;
        let ids = sequence.fed(first_position, (next - first_position) as usize).to_vec();
        self.write(Event::Tokens(Tokens { id: sequence.id.0, first_position, ids, texts: None }))
    }

    /// Writes the deaths collected since the last call.
    pub(crate) fn end_step(&mut self) -> Result<(), EngineError> {
        for ((id, layer, head), deaths) in std::mem::take(&mut self.deaths) {
            let deaths = deaths.iter().map(|death| (death.position, death.expires_at, death.killer));
            self.write(Event::Deaths(Deaths::collect(id, layer, head, deaths)))?;
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, id: u64, live: Vec<u64>, reason: FinishReason) -> Result<(), EngineError> {
        self.write(Event::End(End { id, finish_reason: reason.as_str().into(), live }))?;
        Ok(self.writer.flush()?)
    }

    fn write(&mut self, event: Event) -> Result<(), EngineError> {
        Ok(self.writer.write(&event)?)
    }
}
