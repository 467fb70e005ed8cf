//! Many prompts at once: what the model writes behind each, and where each head looked for every token of it.

use dropcap_cache::{KvCache, PagePool};
use dropcap_kernels::Team;
use dropcap_model::{Decoder, Logits, ModelError, Scratch, Segment};
use dropcap_policy::Stage;

use super::looks::Watch;

/// What a model wrote behind a prompt, greedily, and what its heads looked at for it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Written {
    /// The tokens.
    pub(super) tokens: Vec<u32>,
    /// For each of them the position that each query head looked at most in the step that brought it, `[steps][L][h]`.
    pub(super) looks: Vec<Vec<Vec<u32>>>,
}

/// How prompts are read.
pub(super) struct Reader<'a> {
    pub(super) decoder: &'a Decoder,
    pub(super) team: &'a Team,
    /// For the pages of all prompts of a batch.
    pub(super) pool: &'a PagePool,
    pub(super) watch: &'a Watch,
    /// Most prompt tokens of a step.
    pub(super) chunk: usize,
    /// Most tokens of an answer.
    pub(super) most: usize,
}

impl Reader<'_> {
    /// Reads some prompts, each at least one token, and goes on with all of them together until `ends` says of what was
    /// written that it is over, or there is no more room.
    ///
    /// # Errors
    /// A token outside the vocabulary, more tokens than the model has positions, an exhausted pool.
    pub(super) fn write(
        &self,
        prompts: &[&[u32]],
        ends: &dyn Fn(&[u32]) -> bool,
    ) -> Result<Vec<Written>, ModelError> {
        let config = self.decoder.config();
        let mut written = vec![Written::default(); prompts.len()];
        let mut scratch = Scratch::default();
        let mut running = Vec::with_capacity(prompts.len());
        for (number, prompt) in prompts.iter().enumerate() {
            let mut cache = KvCache::new(self.pool, config.layers, self.decoder.lanes_per_layer(self.watch));
            let logits = self.read(prompt, &mut cache, &mut scratch)?;
            let over =
                self.note(&mut written[number], 0, best(&logits), prompt.len(), ends, &self.watch.take());
            if !over {
                running.push((number, cache));
            }
        }
        let mut logits = Vec::new();
        while !running.is_empty() {
            let last: Vec<u32> =
                running.iter().filter_map(|(number, _)| written[*number].tokens.last().copied()).collect();
            let mut segments: Vec<Segment<'_>> = running
                .iter_mut()
                .zip(last.chunks(1))
                .map(|((_, cache), ids)| Segment {
                    cache,
                    ids,
                    stage: Stage::Behind,
                    budget: None,
                    logits: Logits::Last,
                })
                .collect();
            self.decoder.forward(
                self.team,
                self.watch,
                &mut segments,
                &mut scratch,
                &mut |_, _, _, _| {},
                &mut logits,
            )?;
            drop(segments);
            let looks = self.watch.take();
            let mut rows = logits.chunks_exact(config.vocabulary).enumerate();
            running.retain(|(number, _)| {
                let Some((index, row)) = rows.next() else { return false };
                let length = prompts[*number].len();
                !self.note(&mut written[*number], index, best(row), length, ends, &looks)
            });
        }
        Ok(written)
    }

    /// Reads a prompt and gives the logits of its last token.
    fn read(
        &self,
        prompt: &[u32],
        cache: &mut KvCache,
        scratch: &mut Scratch,
    ) -> Result<Vec<f32>, ModelError> {
        let mut logits = Vec::new();
        let chunks = prompt.chunks(self.chunk.max(1));
        let last = chunks.len().saturating_sub(1);
        for (index, ids) in chunks.enumerate() {
            let (stage, wanted) = match index == last {
                true => (Stage::PromptEnd, Logits::Last),
                false => (Stage::Prompt, Logits::None),
            };
            let mut segments = [Segment { cache: &mut *cache, ids, stage, budget: None, logits: wanted }];
            let died = &mut |_, _, _, _| {};
            self.decoder.forward(self.team, self.watch, &mut segments, scratch, died, &mut logits)?;
        }
        Ok(logits)
    }

    /// Notes a token behind a prompt of so many, and where the text of this number in its step looked; says whether that
    /// was the last one.
    fn note(
        &self,
        written: &mut Written,
        number: usize,
        token: u32,
        prompt: usize,
        ends: &dyn Fn(&[u32]) -> bool,
        looks: &[Vec<Vec<u32>>],
    ) -> bool {
        written.tokens.push(token);
        written.looks.push(looks.iter().map(|layer| layer[number].clone()).collect());
        // The last token need not fit: it is not fed.
        let full = prompt + written.tokens.len() > self.decoder.config().max_positions;
        full || written.tokens.len() >= self.most || ends(&written.tokens)
    }
}

/// The likeliest token; of equal ones the first.
fn best(logits: &[f32]) -> u32 {
    let beats = |best: (usize, f32), next: (usize, f32)| if next.1 > best.1 { next } else { best };
    logits.iter().copied().enumerate().fold((0, f32::NEG_INFINITY), beats).0 as u32
}
