//! One request on its way: how much of the prompt is in, what has been generated, its cache.

use std::time::Instant;

use crate::memory::SequenceMemory;
use crate::{Draw, EngineError, FinishReason, Finished, Request, Sampler, Sampling, SequenceId, Timings};

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    /// Prompt, then generated tokens.
    text: Vec<u32>,
    prompt_tokens: usize,
    max_tokens: usize,
    stop_tokens: Vec<u32>,
    sampler: Sampler,
    pub(crate) memory: SequenceMemory,
    /// Positions that the trace has.
    pub(crate) traced: u32,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Sequence {
    /// A sequence that has not run yet; `positions` is the model's limit.
    pub(crate) fn new(id: SequenceId, request: Request, positions: usize) -> Result<Self, EngineError> {
        let prompt_tokens = request.prompt.len();
        Ok(Sequence {
            id,
            prompt_tokens,
            // The last generated token is never fed back, so it needs no position of its own.
            max_tokens: request.max_tokens.min(positions + 1 - prompt_tokens),
            text: request.prompt,
            stop_tokens: request.stop_tokens,
            sampler: Sampler::new(request.sampling)?,
            memory: SequenceMemory::Waiting,
            traced: 0,
            started: None,
            first_token: None,
            last_token: None,
        })
    }

    /// Tokens that are known but not yet in the cache: the rest of the prompt, or the last one generated.
    pub(crate) fn pending(&self) -> &[u32] {
        &self.text[self.memory.next_position() as usize..]
    }

    /// The next `count` pending tokens, beside the memory that they go into.
    pub(crate) fn feed(&mut self, count: usize) -> (&[u32], &mut SequenceMemory) {
        let first = self.memory.next_position() as usize;
        (&self.text[first..first + count], &mut self.memory)
    }

    /// Prompt and generated tokens.
    pub(crate) fn text(&self) -> &[u32] {
        &self.text
    }

    /// How its tokens are chosen.
    pub(crate) fn sampling(&self) -> &Sampling {
        self.sampler.sampling()
    }

    /// The random number that its next token is drawn with.
    pub(crate) fn random(&mut self) -> f32 {
        self.sampler.uniform()
    }

    /// Tokens already fed, from position `first` on.
    pub(crate) fn fed(&self, first: u32, count: usize) -> &[u32] {
        &self.text[first as usize..first as usize + count]
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Whether several tokens are known but not in the cache: a prompt, or the text of a restarted sequence.
    pub(crate) fn is_prefilling(&self) -> bool {
        self.pending().len() > 1 || self.generated().is_empty()
    }

    /// Most tokens that one step may feed: a chunk never crosses the prompt's end, where policies may act, nor
    /// the place up to which the trace has heard it all.
    pub(crate) fn feedable(&self) -> usize {
        let fed = self.memory.next_position() as usize;
        let ends = [self.prompt_tokens, self.traced as usize, self.text.len()];
        ends.into_iter().filter(|&end| end > fed).min().unwrap_or(fed) - fed
    }

    /// Whether the trace has heard the next step already: a restarted sequence repeats itself.
    pub(crate) fn is_replaying(&self) -> bool {
        self.memory.next_position() < self.traced
    }

    /// Whether feeding `count` more tokens feeds the prompt's last one.
    pub(crate) fn prompt_ends_within(&self, count: usize) -> bool {
        let fed = self.memory.next_position() as usize;
        fed < self.prompt_tokens && fed + count >= self.prompt_tokens
    }

    fn generated(&self) -> &[u32] {
        &self.text[self.prompt_tokens..]
    }

    /// Gives all memory back; the text stays, and goes through the model again when there is room.
    pub(crate) fn restart(&mut self) {
        self.memory = SequenceMemory::Waiting;
    }

    /// Pages that `count` more tokens can need at most: nothing is reclaimed before it is appended.
    pub(crate) fn pages_for(&self, count: usize) -> usize {
        self.memory.pages_wanted(count)
    }

    pub(crate) fn mark_started(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    /// Its next token, to be chosen from `logits` `[v]` with a number in [0, 1).
    pub(crate) fn draw<'a>(&'a self, logits: &'a [f32], random: f32) -> Draw<'a> {
        Draw { sampler: &self.sampler, logits, text: &self.text, random }
    }

    /// Takes the next token, and says why it was the last, if it was.
    pub(crate) fn extend(&mut self, token: u32) -> Option<FinishReason> {
        self.text.push(token);
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        if self.stop_tokens.contains(&token) {
            Some(FinishReason::Stop)
        } else if self.generated().len() >= self.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// The account of a sequence that is over; its pages go back as it drops.
    pub(crate) fn finish(self, reason: FinishReason) -> Finished {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => std::time::Duration::ZERO,
        };
        Finished {
            id: self.id,
            reason,
            prompt_tokens: self.prompt_tokens,
            report: self.memory.report(),
            timings: Timings {
                prefill: between(self.started, self.first_token),
                decode: between(self.first_token, self.last_token),
            },
            token_ids: self.generated().to_vec(),
        }
    }
}
