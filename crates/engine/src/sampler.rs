//! From logits to a token: greedy, temperature, top-k, top-p, min-p, repetition penalty.

mod candidates;
mod row;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, OnceLock, PoisonError};

use dropcap_kernels::Team;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::row::Scratch;
use crate::{EngineError, TokenLogProb};

/// How a token is chosen. Everything applies in the order in which it stands here, as in Hugging Face's
/// generation: penalties, biases, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits of tokens already in the text are divided (if positive) or multiplied (if negative) by this;
    /// 1 does nothing. In [1e-6, 1e6], so that no logit becomes infinite.
    pub repetition_penalty: f32,
    /// Taken from the logit of a token for each time that it was generated; 0 does nothing. In [-100, 100].
    pub frequency_penalty: f32,
    /// Taken from the logit of a token that was generated; 0 does nothing. In [-100, 100].
    pub presence_penalty: f32,
    /// Added to the logits of tokens, each of which is in [-1e6, 1e6]; tokens that the model does not have are passed over.
    pub logit_bias: Vec<(u32, f32)>,
    /// Logits are divided by this; 0 takes the largest logit (greedy) and ignores what follows. In [0, inf).
    pub temperature: f32,
    /// Only the `k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Only the likeliest tokens whose probabilities reach this sum; 1 keeps all. In (0, 1].
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest; 0 keeps all. In [0, 1].
    pub min_p: f32,
    /// Equal seeds draw equal numbers, whatever else shares the batch. The texts are equal where the logits are: without
    /// pruning on the processor always, otherwise up to the rounding of sums that chunks and batches order differently.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether every parameter is in its range.
    ///
    /// # Errors
    /// The first parameter that is not, with its value and range.
    pub fn check(&self) -> Result<(), EngineError> {
        let penalty = |x: f32| (-100.0..=100.0).contains(&x);
        let wild = self.logit_bias.iter().map(|&(_, bias)| bias).find(|bias| !(-1e6..=1e6).contains(bias));
        let positive = |x: f32| x.is_finite() && x > 0.0;
        let rules = [
            (
                "repetition_penalty",
                self.repetition_penalty,
                (1e-6..=1e6).contains(&self.repetition_penalty),
                "between 0.000001 and 1000000",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                penalty(self.frequency_penalty),
                "between -100 and 100",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                penalty(self.presence_penalty),
                "between -100 and 100",
            ),
            ("logit_bias", wild.unwrap_or_default(), wild.is_none(), "between -1000000 and 1000000"),
            (
                "temperature",
                self.temperature,
                self.temperature.is_finite() && self.temperature >= 0.0,
                "0 or above and finite",
            ),
            ("top_p", self.top_p, positive(self.top_p) && self.top_p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1"),
        ];
        match rules.into_iter().find(|rule| !rule.2) {
            Some((name, given, _, range)) => {
                Err(EngineError::Sampling { name, given: f64::from(given), range })
            }
            None => Ok(()),
        }
    }
}

/// Chooses the tokens of one sequence; owns its random state.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    prompt_tokens: usize,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at the start of its random stream.
    ///
    /// # Errors
    /// A parameter outside its range.
    pub fn new(sampling: Sampling) -> Result<Self, EngineError> {
        sampling.check()?;
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Sampler { sampling, prompt_tokens: 0, random })
    }

    /// The same for a text whose first `prompt_tokens` were not generated.
    #[must_use]
    pub fn after(self, prompt_tokens: usize) -> Self {
        Sampler { prompt_tokens, ..self }
    }

    /// What it was made with.
    #[must_use]
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The next number in [0, 1) of its random stream; 0 where tokens are not drawn.
    pub fn uniform(&mut self) -> f32 {
        if self.sampling.temperature == 0.0 { 0.0 } else { self.random.random() }
    }

    /// The next token after `text` (prompt and generated ids), given its logits `[v]` and a number in [0, 1) from
    /// [`Sampler::uniform`]. For many sequences at once see [`sample_all`].
    ///
    /// # Errors
    /// No logits; one that is NaN or infinite: sampling from it would stream garbage as if nothing were wrong.
    pub fn sample(&self, logits: &[f32], text: &[u32], random: f32) -> Result<u32, EngineError> {
        self.sample_in(&mut Scratch::default(), logits, text, random)
    }

    fn sample_in(
        &self,
        scratch: &mut Scratch,
        logits: &[f32],
        text: &[u32],
        random: f32,
    ) -> Result<u32, EngineError> {
        if logits.is_empty() {
            return Err(EngineError::Option { name: "the number of logits", given: 0, minimum: 1 });
        }
        check_finite(logits, text.len())?;
        let prompt_tokens = self.prompt_tokens.min(text.len());
        Ok(scratch.choose(logits, text, prompt_tokens, &self.sampling, random))
    }
}

/// Refuses logits `[v]` of the token at `position` that are not all finite.
///
/// # Errors
/// The first that is NaN or infinite.
pub(crate) fn check_finite(logits: &[f32], position: usize) -> Result<(), EngineError> {
    // Without an early exit this becomes vector code and reads at the speed of memory.
    if logits.iter().fold(true, |finite, value| finite & value.is_finite()) {
        return Ok(());
    }
    match logits.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((token, &value)) => Err(EngineError::NonFiniteLogits { value, token, position }),
        None => Ok(()),
    }
}

/// One sequence whose next token is wanted; see [`Sampler::sample`].
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// How to choose.
    pub sampler: &'a Sampler,
    /// Its logits `[v]`.
    pub logits: &'a [f32],
    /// Prompt and generated ids.
    pub text: &'a [u32],
    /// A number in [0, 1).
    pub random: f32,
}

/// [`Sampler::sample`] for each of many sequences, on all threads; the results are in their order.
pub fn sample_all(team: &Team, draws: &[Draw<'_>]) -> Vec<Result<u32, EngineError>> {
    on_all_threads(team, draws, |scratch, draw| {
        draw.sampler.sample_in(scratch, draw.logits, draw.text, draw.random)
    })
}

/// One token whose log-probability is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Score<'a> {
    /// The logits `[v]` of its place.
    pub(crate) logits: &'a [f32],
    pub(crate) token: u32,
    /// Its position in the text.
    pub(crate) position: usize,
    /// How many of the likeliest come with it.
    pub(crate) top: usize,
}

/// The log-probability of each of many tokens, on all threads; the results are in their order. An error is of logits that
/// are not finite.
pub(crate) fn score_all(team: &Team, scores: &[Score<'_>]) -> Vec<Result<TokenLogProb, EngineError>> {
    on_all_threads(team, scores, |scratch, score| {
        check_finite(score.logits, score.position)?;
        Ok(scratch.log_prob(score.logits, score.token, score.top))
    })
}

fn on_all_threads<I: Sync, T: Send + Sync>(
    team: &Team,
    items: &[I],
    work: impl Fn(&mut Scratch, &I) -> T + Sync,
) -> Vec<T> {
    // One for each thread that takes part: what a row needs beside its logits stays in that thread's cache.
    let idle: Mutex<Vec<Scratch>> = Mutex::default();
    let results: Vec<OnceLock<T>> = items.iter().map(|_| OnceLock::new()).collect();
    team.run(items.len(), &|task| {
        let mut scratch = idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        results[task].get_or_init(|| work(&mut scratch, &items[task]));
        idle.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    });
    // Every task has run, so nothing is left to do here but to take what they left.
    let taken = results.into_iter().zip(items);
    taken
        .map(|(result, item)| result.into_inner().unwrap_or_else(|| work(&mut Scratch::default(), item)))
        .collect()
}
