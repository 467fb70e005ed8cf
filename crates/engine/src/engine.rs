//! The engine: a queue of requests, a batch of running sequences, one step at a time.

mod admission;
mod sharing;
mod step;

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use dropcap_cache::PoolUsage;
use dropcap_kernels::Team;
use dropcap_model::device::DeviceWeights;
use dropcap_model::{Decoder, Tokenizer};
use dropcap_policy::EvictionPolicy;
use dropcap_trace::{Event, TraceWriter};

use crate::backend::{Backend, Device, Host};
use crate::demand::Demand;
use crate::prefix::Prefixes;
use crate::sequence::Sequence;
use crate::tracing::{ERROR, Recorder};
use crate::{EngineError, EngineOptions, FinishReason, Finished, Output, Request, SequenceId, VoteScores};

/// Runs many sequences over one decoder, one policy and one pool of pages.
///
/// Requests are served in the order in which they came. One joins the batch when the pages of its whole prompt are
/// free, as many as its policy says it can hold at most ([`EvictionPolicy::peak`]), and they stay reserved until the
/// prompt is in. Where memory runs out later, the youngest sequence gives way and starts again, with the same text,
/// when somebody has left; one that is alone ends as [`FinishReason::OutOfMemory`], with the text that it has.
///
/// A step that fails ends everything that is queued or running with an [`Output::Failed`]; every later call says so.
#[derive(Debug)]
pub struct Engine {
    backend: Backend,
    demand: Demand,
    options: EngineOptions,
    waiting: VecDeque<Sequence>,
    /// Oldest first, and all older than those that wait.
    running: Vec<Sequence>,
    /// Set when a sequence had to give way: nobody joins until somebody leaves.
    crowded: bool,
    next_id: u64,
    prefixes: Option<Prefixes>,
    recorder: Option<Recorder>,
    /// What failed, once a step has.
    failure: Option<Arc<str>>,
}

/// Whoever serves an engine gives it a thread of its own.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Engine>();
};

impl Engine {
    /// An idle engine on the host's threads.
    ///
    /// # Errors
    /// A chunk or batch of zero, or a memory cap that cannot hold one token.
    pub fn new(
        decoder: Arc<Decoder>,
        policy: Arc<dyn EvictionPolicy>,
        team: Arc<Team>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        options.check()?;
        let host = Host::new(decoder, policy.clone(), team, &options)?;
        Self::over(Backend::Host(Box::new(host)), policy, options)
    }

    /// An idle engine on a device; `traced` says whether a trace will be written.
    ///
    /// # Errors
    /// A chunk or batch of zero, a policy that the device cannot decide, too little memory on it.
    pub fn on_device(
        weights: Arc<DeviceWeights>,
        policy: Arc<dyn EvictionPolicy>,
        options: EngineOptions,
        traced: bool,
    ) -> Result<Self, EngineError> {
        options.check()?;
        let device = Device::new(weights, policy.as_ref(), &options, traced)?;
        Self::over(Backend::Device(Box::new(device)), policy, options)
    }

    fn over(
        backend: Backend,
        policy: Arc<dyn EvictionPolicy>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        let pool = backend.pool();
        let demand = Demand::new(policy, backend.config(), pool)?;
        let pages = options.prefix_bytes / pool.page_bytes.max(1);
        let (places, most) = backend.keeps();
        let prefixes = (pages > 0).then(|| Prefixes::new(backend.sharing(), places, pages, most));
        Ok(Engine {
            backend,
            demand,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            crowded: false,
            next_id: 0,
            prefixes,
            recorder: None,
            failure: None,
        })
    }

    /// Records every death from now on; the caller has written the header. A trace that cannot be written ends
    /// alone: texts go on, and [`Engine::finish_trace`] says what happened. A trace tells each text from its beginning, so
    /// none is shared from now on.
    pub fn trace_to(&mut self, writer: TraceWriter<Box<dyn Write + Send>>) {
        self.prefixes = None;
        self.recorder = Some(Recorder::new(writer));
    }

    /// Lets the trace say the texts of its tokens. Without a trace this does nothing.
    pub fn spell_trace(&mut self, tokenizer: Arc<Tokenizer>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.spell(tokenizer);
        }
    }

    /// Lets the trace say the scores of fatal votes; `scores` came with this engine's policy ([`VoteScores::of`]). Without
    /// a trace this does nothing.
    pub fn score_trace(&mut self, scores: VoteScores) {
        if let Some(recorder) = &mut self.recorder {
            recorder.score(scores);
        }
    }

    /// Tells every event of the trace as it happens. Without a trace this does nothing.
    pub fn watch_trace(&mut self, listener: impl FnMut(&Event) + Send + 'static) {
        if let Some(recorder) = &mut self.recorder {
            recorder.tell(Box::new(listener));
        }
    }

    /// Ends the trace and hands all of it to its sink. Without a trace this does nothing.
    ///
    /// # Errors
    /// The first thing that kept the trace from being written; it ends there.
    pub fn finish_trace(&mut self) -> Result<(), EngineError> {
        self.recorder.take().map_or(Ok(()), Recorder::finish)
    }

    /// What the pages of all sequences take; what a sequence held is free once it is over. After a failed step on a
    /// device the device cannot be asked any more, and this is what it said last.
    ///
    /// # Errors
    /// None so far.
    pub fn usage(&self) -> Result<PoolUsage, EngineError> {
        Ok(self.backend.usage())
    }

    /// Queues a request.
    ///
    /// # Errors
    /// An empty or too long prompt, a token outside the vocabulary, a sampling parameter outside its range; a budget that
    /// the method does not have or cannot keep; a prompt
    /// that the cache could not hold even if it were alone ([`EngineError::OutOfMemory`]), or of which the method wants to
    /// see more together than a step may hold; a full queue; an engine that has
    /// failed.
    pub fn submit(&mut self, request: Request) -> Result<SequenceId, EngineError> {
        self.check_alive()?;
        let config = self.backend.config();
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if self.options.max_waiting.is_some_and(|limit| self.waiting.len() >= limit) {
            return Err(EngineError::QueueFull { limit: self.waiting.len() });
        }
        if request.max_tokens == 0 && request.log_probs.prompt.is_none() {
            return Err(EngineError::NoTokensWanted);
        }
        if request.prompt.len() > config.max_positions {
            return Err(EngineError::PromptTooLong {
                given: request.prompt.len(),
                limit: config.max_positions,
            });
        }
        let vocabulary = config.vocabulary;
        if let Some(&id) = request.prompt.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(EngineError::TokenOutsideVocabulary { id, vocabulary });
        }
        if let Some(given) = request.kv_budget {
            self.demand.check_budget(given, config.max_positions)?;
            self.backend.check_budget()?;
        }
        let id = SequenceId(self.next_id);
        let sequence = Sequence::new(id, request, config.max_positions)?;
        let (needed, chunk) = (self.demand.needs().together(sequence.context()), self.options.chunk);
        if needed > chunk {
            return Err(EngineError::Together { needed, chunk });
        }
        self.demand.check(sequence.size())?;
        self.next_id += 1;
        self.waiting.push_back(sequence);
        Ok(id)
    }

    /// Whether nothing is queued or running.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Whether a step has failed: nothing can be done with the engine any more.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Requests that have not begun, or that have to start again.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that have begun and are not over.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Ends a sequence early, for example at a stop string or because its reader has gone; its memory is
    /// free when this returns. None if it is not queued or running.
    ///
    /// # Errors
    /// An engine that has failed; then its sequences end with the next [`Engine::step`].
    pub fn finish(&mut self, id: SequenceId, reason: FinishReason) -> Result<Option<Finished>, EngineError> {
        self.check_alive()?;
        let is_it = |sequence: &Sequence| sequence.id == id;
        let sequence = match self.running.iter().position(is_it) {
            Some(index) => Some(self.running.remove(index)),
            None => self.waiting.iter().position(is_it).and_then(|index| self.waiting.remove(index)),
        };
        Ok(sequence.map(|sequence| self.end(sequence, reason)))
    }

    /// Runs one step: every running sequence that fits moves on by one token, prompts by a chunk.
    ///
    /// What concerns one sequence is an [`Output::Failed`], and the others go on. A failure inside the model is one
    /// for every sequence, queued ones too; their memory is free when this returns.
    ///
    /// # Errors
    /// An engine that has failed before.
    pub fn step(&mut self) -> Result<Vec<Output>, EngineError> {
        if self.is_idle() {
            self.check_alive()?;
        }
        let mut outputs = Vec::new();
        if self.failure.is_none()
            && let Err(error) = self.advance(&mut outputs)
        {
            self.poison(&error);
        }
        if let Some(cause) = self.failure.clone() {
            self.give_up(&cause, &mut outputs);
        }
        Ok(outputs)
    }

    fn check_alive(&self) -> Result<(), EngineError> {
        self.failure.clone().map_or(Ok(()), |cause| Err(EngineError::Poisoned { cause }))
    }

    /// Remembers the first failure that leaves the caches in doubt.
    fn poison(&mut self, error: &EngineError) {
        self.failure.get_or_insert_with(|| error.to_string().into());
    }

    /// Ends everything that is queued or running: what the caches hold is in doubt.
    fn give_up(&mut self, cause: &Arc<str>, outputs: &mut Vec<Output>) {
        let sequences: Vec<Sequence> = self.running.drain(..).chain(self.waiting.drain(..)).collect();
        let layers = self.demand.layers();
        for mut sequence in sequences {
            sequence.restart();
            if let Some(recorder) = &mut self.recorder {
                recorder.drop_step();
                recorder.end(&mut sequence, Ok(vec![0; layers]), ERROR);
            }
            let error = EngineError::Poisoned { cause: cause.clone() };
            outputs.push(Output::Failed { id: sequence.id, error });
        }
        self.left();
    }

    /// Bytes of pages that are kept for later texts with the same beginning; a page that several share counts for each.
    #[must_use]
    pub fn prefix_bytes(&self) -> usize {
        self.prefixes.as_ref().map_or(0, |kept| kept.pages() * self.backend.pool().page_bytes)
    }

    /// Accounts for a sequence that is over and frees it.
    fn end(&mut self, mut sequence: Sequence, reason: FinishReason) -> Finished {
        if let Err(error) = self.keep_end(&sequence) {
            self.poison(&error);
        }
        self.trace_end(&mut sequence, reason.as_str());
        let budget = self.demand.budget(sequence.size());
        let finished = sequence.finish(reason, budget);
        self.left();
        finished
    }

    /// Gives a sequence up and frees it.
    fn fail(&mut self, mut sequence: Sequence, error: EngineError) -> Output {
        self.trace_end(&mut sequence, ERROR);
        let id = sequence.id;
        drop(sequence);
        self.left();
        Output::Failed { id, error }
    }

    fn trace_end(&mut self, sequence: &mut Sequence, reason: &str) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end(sequence, self.backend.live_entries(&sequence.memory), reason);
        }
    }

    /// Somebody has left, and what they held can be had.
    fn left(&mut self) {
        self.crowded = false;
        if let Err(error) = self.backend.settle() {
            self.poison(&error);
        }
    }
}
