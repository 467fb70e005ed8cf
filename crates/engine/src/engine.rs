//! The engine: a queue of requests, a batch of running sequences, one step at a time.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use dropcap_cache::{Death, PoolUsage};
use dropcap_kernels::{DType, Team};
use dropcap_model::device::{DeviceDecoder, DeviceOptions, DeviceWeights};
use dropcap_model::{Decoder, Scratch};
use dropcap_policy::EvictionPolicy;
use dropcap_trace::TraceWriter;

use crate::backend::{Answer, Backend, Feed, Host};
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

impl EngineOptions {
    fn check(&self) -> Result<(), EngineError> {
        let counts = [("chunk", self.chunk), ("max_batch", self.max_batch)];
        match counts.into_iter().find(|&(_, given)| given == 0) {
            Some((name, given)) => Err(EngineError::Option { name, given, minimum: 1 }),
            None => Ok(()),
        }
    }
}

/// Runs many sequences over one decoder, one policy and one pool of pages.
#[derive(Debug)]
pub struct Engine {
    backend: Backend,
    /// Whether deaths belong to a KV head each.
    per_head: bool,
    options: EngineOptions,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Set when a sequence had to give way: nobody joins until somebody leaves.
    crowded: bool,
    next_id: u64,
    recorder: Option<Recorder>,
}

impl Engine {
    /// An idle engine on the host's threads.
    ///
    /// # Errors
    /// A chunk or batch of zero, or a memory cap below one page.
    pub fn new(
        decoder: Arc<Decoder>,
        policy: Arc<dyn EvictionPolicy>,
        team: Arc<Team>,
        options: EngineOptions,
    ) -> Result<Self, EngineError> {
        let pool = decoder.page_pool(policy.as_ref(), options.kv_dtype, options.kv_limit)?;
        let per_head = policy.per_head();
        let (scratch, logits) = (Scratch::default(), Vec::new());
        let host = Host { decoder, policy, team, pool, scratch, logits };
        Self::over(Backend::Host(Box::new(host)), per_head, options)
    }

    /// An idle engine on a device; `traced` says whether a trace will be written.
    ///
    /// # Errors
    /// A chunk or batch of zero, a policy that the device cannot decide, too little memory on it.
    pub fn on_device(
        weights: Arc<DeviceWeights>,
        policy: &dyn EvictionPolicy,
        options: EngineOptions,
        traced: bool,
    ) -> Result<Self, EngineError> {
        options.check()?;
        let own = DeviceOptions {
            kv_dtype: options.kv_dtype,
            kv_limit: options.kv_limit,
            chunk: options.chunk,
            max_batch: options.max_batch,
            deaths: traced,
            logit_rows: 0,
        };
        let decoder = DeviceDecoder::new(weights, policy, own)?;
        let per_head = policy.per_head();
        Self::over(Backend::Device(Box::new(decoder)), per_head, options)
    }

    fn over(backend: Backend, per_head: bool, options: EngineOptions) -> Result<Self, EngineError> {
        options.check()?;
        Ok(Engine {
            backend,
            per_head,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            crowded: false,
            next_id: 0,
            recorder: None,
        })
    }

    /// Records every death from now on; the caller has written the header.
    pub fn trace_to(&mut self, writer: TraceWriter<Box<dyn Write + Send>>) {
        self.recorder = Some(Recorder::new(writer));
    }

    /// What the pages of all sequences take.
    ///
    /// # Errors
    /// A failed device.
    pub fn usage(&mut self) -> Result<PoolUsage, EngineError> {
        self.backend.usage()
    }

    /// Queues a request.
    ///
    /// # Errors
    /// An empty or too long prompt, a token outside the vocabulary, a sampling parameter outside its range.
    pub fn submit(&mut self, request: Request) -> Result<SequenceId, EngineError> {
        let config = self.backend.config();
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
        let sequence = Sequence::new(id, request, config.max_positions)?;
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
        let free_pages = self.backend.free_pages()?;
        let shares = plan(&self.running, self.options.chunk, free_pages);
        if shares.is_empty() {
            return Ok(self.make_room(free_pages)?.into_iter().collect());
        }
        let answers = self.run(&shares)?;
        self.record(&shares)?;
        self.sample(&shares, &answers)
    }

    /// Moves queued sequences into the batch while there is room.
    fn admit(&mut self) -> Result<(), EngineError> {
        while !self.crowded && self.running.len() < self.options.max_batch {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            match self.backend.open(sequence.sampling(), sequence.text())? {
                Some(memory) => sequence.memory = memory,
                None => {
                    self.waiting.push_front(sequence);
                    break;
                }
            }
            if let Some(recorder) = self.recorder.as_mut().filter(|_| sequence.traced == 0) {
                recorder.begin(&sequence)?;
            }
            self.running.push(sequence);
        }
        Ok(())
    }

    /// Nobody fits. The youngest of those that hold memory gives way and starts again later; one that is alone
    /// and still does not fit never will, so it fails.
    fn make_room(&mut self, free_pages: usize) -> Result<Option<Output>, EngineError> {
        let holds = |sequence: &Sequence| sequence.memory.next_position() > 0;
        if self.running.iter().filter(|sequence| holds(sequence)).count() > 1 {
            let Some(youngest) = self.running.iter().rposition(holds) else { return Ok(None) };
            let mut sequence = self.running.remove(youngest);
            sequence.restart();
            self.waiting.push_front(sequence);
            self.crowded = true;
            return Ok(None);
        }
        let index = self.running.iter().position(holds).unwrap_or(0);
        if self.running.is_empty() {
            return Ok(None);
        }
        let sequence = self.running.remove(index);
        self.crowded = false;
        let error = EngineError::OutOfMemory {
            held: usize::try_from(sequence.memory.report().held_bytes).unwrap_or(usize::MAX),
            wanted: sequence.pages_for(1).saturating_sub(free_pages) * self.backend.page_bytes(),
            limit: self.backend.usage()?.limit_bytes.unwrap_or(usize::MAX),
        };
        Ok(Some(Output::Failed { id: sequence.id, error }))
    }

    /// The forward pass of one planned step: what every share got, and the random number that goes with it.
    fn run(&mut self, shares: &[Share]) -> Result<Vec<(Option<Answer>, f32)>, EngineError> {
        let mut feeds = Vec::with_capacity(shares.len());
        let mut randoms = Vec::with_capacity(shares.len());
        let mut told = Vec::with_capacity(shares.len());
        let mut planned = shares.iter().peekable();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            let Some(share) = planned.next_if(|share| share.index == index) else { continue };
            sequence.mark_started();
            let prompt_ends = sequence.prompt_ends_within(share.tokens);
            let whole = share.tokens == sequence.pending().len();
            told.push((sequence.id.0, sequence.is_replaying()));
            let random = whole.then(|| sequence.random());
            randoms.push(random.unwrap_or_default());
            let (tokens, memory) = sequence.feed(share.tokens);
            feeds.push(Feed { memory, tokens, prompt_ends, random });
        }
        let per_head = self.per_head;
        let recorder = &mut self.recorder;
        let mut died = |feed: usize, layer, lane, death: Death| {
            let (id, replaying) = told[feed];
            if let Some(recorder) = recorder.as_mut().filter(|_| !replaying) {
                recorder.died(id, layer, per_head.then_some(lane), death);
            }
        };
        let answers = self.backend.run(&mut feeds, &mut died)?;
        Ok(answers.into_iter().zip(randoms).collect())
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
    fn sample(
        &mut self,
        shares: &[Share],
        answers: &[(Option<Answer>, f32)],
    ) -> Result<Vec<Output>, EngineError> {
        let mut outputs = Vec::new();
        let mut over = Vec::new();
        let asked = shares.iter().zip(answers).filter_map(|(share, &(answer, random))| {
            answer.map(|answer| (&self.running[share.index], answer, random))
        });
        let tokens = self.backend.choose(&asked.collect::<Vec<_>>());
        let answered = shares.iter().zip(answers).filter(|(_, (answer, _))| answer.is_some());
        for ((share, _), token) in answered.zip(tokens) {
            let sequence = &mut self.running[share.index];
            match token {
                Ok(token) => {
                    outputs.push(Output::Token { id: sequence.id, token });
                    if let Some(reason) = sequence.extend(token) {
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
            let live = self.backend.live_entries(&sequence.memory)?;
            recorder.end(sequence.id.0, live, reason)?;
        }
        Ok(sequence.finish(reason))
    }
}
