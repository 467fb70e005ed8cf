//! One request on its way: how much of the prompt is in, what has been generated, its cache.

use std::ops::Range;
use std::time::Instant;

use dropcap_policy::{Needs, Stage, TextSize};

use crate::backend::{Feed, NextToken, Targets};
use crate::memory::SequenceMemory;
use crate::prefix::Key;
use crate::{EngineError, FinishReason, Finished, LogProbs, Request, Sampler, Sampling, SequenceId, Timings};

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    /// Prompt, then generated tokens.
    text: Vec<u32>,
    prompt_tokens: usize,
    /// Prompt tokens that came with the beginning of another text.
    pub(crate) cached_tokens: usize,
    /// Prompt tokens that methods take for the prompt.
    context: usize,
    max_tokens: usize,
    stop_tokens: Vec<u32>,
    sampler: Sampler,
    log_probs: LogProbs,
    salt: String,
    budget: Option<u32>,
    /// Prompt tokens before this position have been told of.
    told: usize,
    pub(crate) memory: SequenceMemory,
    /// Whether the trace knows of it.
    pub(crate) announced: bool,
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
            cached_tokens: 0,
            context: request.context.unwrap_or(prompt_tokens).clamp(1, prompt_tokens),
            // The last generated token is never fed back, so it needs no position of its own.
            max_tokens: request.max_tokens.min(positions + 1 - prompt_tokens),
            text: request.prompt,
            stop_tokens: request.stop_tokens,
            sampler: Sampler::new(request.sampling)?.after(prompt_tokens),
            log_probs: request.log_probs,
            salt: request.salt,
            budget: request.kv_budget,
            told: 0,
            memory: SequenceMemory::Waiting,
            announced: false,
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

    /// The next `count` pending tokens; with the last of them a new one is wanted.
    pub(crate) fn feed(&mut self, count: usize) -> Feed<'_> {
        let first = self.memory.next_position() as usize;
        let stage = self.stage(count);
        let end = first + count;
        // The token at a position follows the one before it.
        let told = self.targets(first + 1..(end + 1).min(self.prompt_tokens));
        let targets = Targets {
            row: told.start.saturating_sub(first + 1),
            position: told.start,
            top: self.log_probs.prompt.map_or(0, |prompt| prompt.top),
            tokens: &self.text[told],
        };
        let draw = (end == self.text.len() && self.max_tokens > 0).then(|| {
            let (random, top) = (self.sampler.uniform(), self.log_probs.generated);
            NextToken { sampler: &self.sampler, text: &self.text, random, top }
        });
        let budget = self.budget;
        Feed { memory: &mut self.memory, tokens: &self.text[first..end], stage, budget, targets, draw }
    }

    /// Those of some positions of the prompt whose tokens are still to be told of.
    fn targets(&self, positions: Range<usize>) -> Range<usize> {
        let Some(prompt) = self.log_probs.prompt else { return 0..0 };
        let start = positions.start.max(prompt.from).max(self.told);
        if start < positions.end { start..positions.end } else { 0..0 }
    }

    /// Counts prompt tokens that have been told of, and gives the position of the first.
    pub(crate) fn tell(&mut self, count: usize) -> usize {
        let first = self.prompt_first().max(self.told);
        self.told = first + count;
        first
    }

    /// Position of the first prompt token that is told of.
    fn prompt_first(&self) -> usize {
        self.log_probs.prompt.map_or(0, |prompt| prompt.from.max(1))
    }

    /// Whether it was about its prompt alone, all of which is in.
    pub(crate) fn is_told(&self) -> bool {
        self.max_tokens == 0 && self.pending().is_empty()
    }

    /// The size of the text that is known.
    pub(crate) fn size(&self) -> TextSize {
        TextSize { prompt: self.context, tokens: self.text.len(), budget: self.budget }
    }

    /// The size of the text that is in the cache with `count` more tokens.
    pub(crate) fn size_with(&self, count: usize) -> TextSize {
        let tokens = self.memory.next_position() as usize + count;
        TextSize { prompt: self.context.min(tokens), tokens, budget: self.budget }
    }

    /// Prompt and generated tokens.
    pub(crate) fn text(&self) -> &[u32] {
        &self.text
    }

    /// With which texts it may share its beginning.
    pub(crate) fn key(&self) -> Key<'_> {
        Key { salt: &self.salt, budget: self.budget }
    }

    /// Most tokens that may come from another text: one must go through the model, or as many as the method wants to see
    /// together, and those that are to be told of need the one before them.
    pub(crate) fn shareable(&self, needs: Needs) -> usize {
        let untold = self.log_probs.prompt.map_or(usize::MAX, |_| self.prompt_first().max(self.told) - 1);
        // What a method does where the context ends it does for each text anew.
        (self.context - needs.together(self.context).max(1)).min(untold)
    }

    /// How many of the next `wanted` tokens a step may take, of what the method wants to see together all or nothing.
    pub(crate) fn cut(&self, needs: Needs, wanted: usize) -> usize {
        needs.cut(self.context, self.memory.next_position() as usize, wanted)
    }

    /// How its tokens are chosen.
    pub(crate) fn sampling(&self) -> &Sampling {
        self.sampler.sampling()
    }

    /// Tokens already fed, from position `first` on.
    pub(crate) fn fed(&self, first: u32, count: usize) -> &[u32] {
        &self.text[first as usize..first as usize + count]
    }

    /// Prompt tokens that methods take for the prompt.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Whether several tokens are known but not in the cache: a prompt, or the text of a restarted sequence.
    pub(crate) fn is_prefilling(&self) -> bool {
        self.pending().len() > 1 || self.generated().is_empty()
    }

    /// Most tokens that one step may feed: a chunk never crosses the end of the context, where policies may act, nor
    /// the place up to which the trace has heard it all.
    pub(crate) fn feedable(&self) -> usize {
        let fed = self.memory.next_position() as usize;
        let ends = [self.context, self.traced as usize, self.text.len()];
        ends.into_iter().filter(|&end| end > fed).min().unwrap_or(fed) - fed
    }

    /// Whether the trace has heard the next step already: a restarted sequence repeats itself.
    pub(crate) fn is_replaying(&self) -> bool {
        self.memory.next_position() < self.traced
    }

    /// Where in the text the next `count` tokens lie.
    fn stage(&self, count: usize) -> Stage {
        let fed = self.memory.next_position() as usize;
        match (fed < self.context, fed + count >= self.context) {
            (true, true) => Stage::PromptEnd,
            (true, false) => Stage::Prompt,
            (false, _) => Stage::Behind,
        }
    }

    /// Whether there is a text to deliver.
    pub(crate) fn has_generated(&self) -> bool {
        !self.generated().is_empty()
    }

    /// Tokens that it may still generate.
    pub(crate) fn left(&self) -> usize {
        self.max_tokens.saturating_sub(self.generated().len())
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

    /// The account of a sequence that is over, under the budget that held; its pages go back as it drops.
    pub(crate) fn finish(self, reason: FinishReason, kv_budget: Option<u32>) -> Finished {
        let between = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from),
            _ => std::time::Duration::ZERO,
        };
        Finished {
            id: self.id,
            reason,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            report: self.memory.report(),
            kv_budget,
            timings: Timings {
                prefill: between(self.started, self.first_token),
                decode: between(self.first_token, self.last_token),
            },
            token_ids: self.generated().to_vec(),
        }
    }
}
