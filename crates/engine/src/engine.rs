//! The engine: a queue of requests, a batch of running sequences, one step at a time.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use dropcap_cache::{Death, KvCache, PagePool};
use dropcap_kernels::{DType, Team};
use dropcap_model::{Decoder, Logits, Scratch, Segment};
use dropcap_policy::{EvictionPolicy, Granularity};
use dropcap_trace::TraceWriter;

use crate::schedule::{Share, plan};
use crate::sequence::Sequence;
use crate::tracing::Recorder;
use crate::{EngineError, FinishReason, Finished, Output, Request, SequenceId};

/// How an engine divides its time and memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Most prompt tokens per step. Larger chunks use the processor better; smaller ones let running
    /// sequences wait less and free pruned entries sooner.
    pub chunk: usize,
    /// Most sequences at once; the rest queue.
    pub max_batch: usize,
    /// How keys and values are stored.
    pub kv_dtype: DType,
    /// Cap on the cache in bytes; none means what the machine has.
    pub kv_limit: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { chunk: 256, max_batch: 64, kv_dtype: DType::F32, kv_limit: None }
    }
}

/// Runs many sequences over one decoder, one policy and one pool of pages.
#[derive(Debug)]
pub struct Engine {
    decoder: Arc<Decoder>,
    policy: Arc<dyn EvictionPolicy>,
    team: Arc<Team>,
    pool: PagePool,
    options: EngineOptions,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Set when a sequence had to give way: nobody joins until somebody leaves.
    crowded: bool,
    next_id: u64,
    scratch: Scratch,
    logits: Vec<f32>,
    recorder: Option<Recorder>,
}

impl Engine {
    /// An idle engine.
    ///
    /// # Errors
    /// A chunk or batch of zero, or a memory cap below one page.
    pub fn new(
        decoder: Arc<Decoder>,
        policy: Arc<dyn EvictionPolicy>,
        team: Arc<Team>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        for (name, given) in [("chunk", options.chunk), ("max_batch", options.max_batch)] {
            if given == 0 {
                return Err(EngineError::Option { name, given, minimum: 1 });
            }
        }
        let pool = decoder.page_pool(policy.as_ref(), options.kv_dtype, options.kv_limit)?;
        Ok(Engine {
            decoder,
            policy,
            team,
            pool,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            crowded: false,
            next_id: 0,
            scratch: Scratch::default(),
            logits: Vec::new(),
            recorder: None,
        })
    }

    /// Records every death from now on; the caller has written the header.
    pub fn trace_to(&mut self, writer: TraceWriter<Box<dyn Write + Send>>) {
        self.recorder = Some(Recorder::new(writer));
    }

    /// The pool that all sequences share.
    #[must_use]
    pub fn pool(&self) -> &PagePool {
        &self.pool
    }

    /// Queues a request.
    ///
    /// # Errors
    /// An empty or too long prompt, a token outside the vocabulary, a sampling parameter outside its range.
    pub fn submit(&mut self, request: Request) -> Result<SequenceId, EngineError> {
        let config = self.decoder.config();
        if request.prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if request.max_tokens == 0 {
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
        let id = SequenceId(self.next_id);
        let lanes = self.decoder.lanes_per_layer(self.policy.as_ref());
        let cache = KvCache::new(&self.pool, config.layers, lanes);
        let sequence = Sequence::new(id, request, cache, config.max_positions)?;
        self.next_id += 1;
        self.waiting.push_back(sequence);
        Ok(id)
    }

    /// Whether nothing is queued or running.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
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
    /// A trace that cannot be written.
    pub fn finish(&mut self, id: SequenceId, reason: FinishReason) -> Result<Option<Finished>, EngineError> {
        let sequence = if let Some(index) = self.running.iter().position(|sequence| sequence.id == id) {
            self.running.remove(index)
        } else if let Some(index) = self.waiting.iter().position(|sequence| sequence.id == id) {
            match self.waiting.remove(index) {
                Some(sequence) => sequence,
                None => return Ok(None),
            }
        } else {
            return Ok(None);
        };
        self.close(sequence, reason).map(Some)
    }

    /// Runs one step: every running sequence that fits moves on by one token, prompts by a chunk.
    ///
    /// # Errors
    /// Only what leaves the engine unusable: a failure inside the model, or a trace that cannot be written.
    /// What concerns one sequence is an [`Output::Failed`], and the others go on.
    pub fn step(&mut self) -> Result<Vec<Output>, EngineError> {
        self.admit()?;
        let free_pages = self.pool.pages_available();
        let shares = plan(&self.running, self.options.chunk, free_pages);
        if shares.is_empty() {
            return Ok(self.make_room(free_pages).into_iter().collect());
        }
        self.run(&shares)?;
        self.record(&shares)?;
        self.sample(&shares)
    }

    /// Moves queued sequences into the batch while there is room.
    fn admit(&mut self) -> Result<(), EngineError> {
        while !self.crowded && self.running.len() < self.options.max_batch {
            let Some(sequence) = self.waiting.pop_front() else { break };
            if let Some(recorder) = self.recorder.as_mut().filter(|_| sequence.traced == 0) {
                recorder.begin(&sequence)?;
            }
            self.running.push(sequence);
        }
        Ok(())
    }

    /// Nobody fits. The youngest of those that hold memory gives way and starts again later; one that is alone
    /// and still does not fit never will, so it fails.
    fn make_room(&mut self, free_pages: usize) -> Option<Output> {
        let holds = |sequence: &Sequence| sequence.cache.next_position() > 0;
        if self.running.iter().filter(|sequence| holds(sequence)).count() > 1 {
            let youngest = self.running.iter().rposition(holds)?;
            let mut sequence = self.running.remove(youngest);
            let (layers, groups) = (sequence.cache.layers(), sequence.cache.groups());
            sequence.restart(KvCache::new(&self.pool, layers, groups));
            self.waiting.push_front(sequence);
            self.crowded = true;
            return None;
        }
        let index = self.running.iter().position(holds).unwrap_or(0);
        if self.running.is_empty() {
            return None;
        }
        let sequence = self.running.remove(index);
        self.crowded = false;
        let error = EngineError::OutOfMemory {
            held: usize::try_from(sequence.cache.report().held_bytes).unwrap_or(usize::MAX),
            wanted: sequence.pages_for(1).saturating_sub(free_pages) * self.pool.layout().bytes(),
            limit: self.options.kv_limit.unwrap_or(usize::MAX),
        };
        Some(Output::Failed { id: sequence.id, error })
    }

    /// The forward pass of one planned step.
    fn run(&mut self, shares: &[Share]) -> Result<(), EngineError> {
        let mut segments = Vec::with_capacity(shares.len());
        let mut told = Vec::with_capacity(shares.len());
        let mut planned = shares.iter().peekable();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            let Some(share) = planned.next_if(|share| share.index == index) else { continue };
            sequence.mark_started();
            let prompt_ends = sequence.prompt_ends_within(share.tokens);
            let whole = share.tokens == sequence.pending().len();
            told.push((sequence.id.0, sequence.is_replaying()));
            let (tokens, cache) = sequence.feed(share.tokens);
            let logits = if whole { Logits::Last } else { Logits::None };
            segments.push(Segment { cache, ids: tokens, prompt_ends, logits });
        }
        let per_head = self.policy.granularity() == Granularity::KvHead;
        let recorder = &mut self.recorder;
        let mut died = |segment: usize, layer, lane, death: Death| {
            let (id, replaying) = told[segment];
            if let Some(recorder) = recorder.as_mut().filter(|_| !replaying) {
                recorder.died(id, layer, per_head.then_some(lane), death);
            }
        };
        let (scratch, logits) = (&mut self.scratch, &mut self.logits);
        self.decoder.forward(&self.team, self.policy.as_ref(), &mut segments, scratch, &mut died, logits)?;
        Ok(())
    }

    /// Writes the step's tokens and deaths to the trace.
    fn record(&mut self, shares: &[Share]) -> Result<(), EngineError> {
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        for share in shares {
            recorder.fed(&mut self.running[share.index])?;
        }
        recorder.end_step()
    }

    /// Samples for every sequence whose known tokens are all in, and takes out those that are over.
    fn sample(&mut self, shares: &[Share]) -> Result<Vec<Output>, EngineError> {
        let vocabulary = self.decoder.config().vocabulary;
        let mut outputs = Vec::new();
        let mut rows = self.logits.chunks_exact(vocabulary);
        let mut over = Vec::new();
        for share in shares {
            let sequence = &mut self.running[share.index];
            if !sequence.pending().is_empty() {
                continue;
            }
            let Some(row) = rows.next() else { continue };
            match sequence.extend(row) {
                Ok((token, reason)) => {
                    outputs.push(Output::Token { id: sequence.id, token });
                    if let Some(reason) = reason {
                        over.push((share.index, Ok(reason)));
                    }
                }
                Err(error) => over.push((share.index, Err(error))),
            }
        }
        // From the back, so that earlier indices stay true.
        let mut ended = Vec::with_capacity(over.len());
        for (index, outcome) in over.into_iter().rev() {
            let sequence = self.running.remove(index);
            ended.push(match outcome {
                Ok(reason) => Output::Finished(self.close(sequence, reason)?),
                Err(error) => {
                    self.crowded = false;
                    Output::Failed { id: sequence.id, error }
                }
            });
        }
        outputs.extend(ended.into_iter().rev());
        Ok(outputs)
    }

    /// Accounts for a sequence that is over and frees it.
    fn close(&mut self, sequence: Sequence, reason: FinishReason) -> Result<Finished, EngineError> {
        self.crowded = false;
        if let Some(recorder) = &mut self.recorder {
            recorder.end(&sequence, reason)?;
        }
        Ok(sequence.finish(reason))
    }
}
