//! From logits to a token: greedy, temperature, top-k, top-p, min-p, repetition penalty.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::EngineError;

/// How a token is chosen. The filters apply in the order in which they stand here, as in Hugging Face's
/// generation: penalty, temperature, top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits of tokens already in the text are divided (if positive) or multiplied (if negative) by this;
    /// 1 does nothing. In (0, inf).
    pub repetition_penalty: f32,
    /// Logits are divided by this; 0 takes the largest logit (greedy) and ignores what follows. In [0, inf).
    pub temperature: f32,
    /// Only the `k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Only the likeliest tokens whose probabilities reach this sum; 1 keeps all. In (0, 1].
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest; 0 keeps all. In [0, 1].
    pub min_p: f32,
    /// Equal seeds give equal texts, whatever else shares the batch.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Sampling {
    /// Whether every parameter is in its range.
    ///
    /// # Errors
    /// The first parameter that is not, with its value and range.
    pub fn check(&self) -> Result<(), EngineError> {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        let rules = [
            (
                "repetition_penalty",
                self.repetition_penalty,
                positive(self.repetition_penalty),
                "above 0 and finite",
            ),
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
    random: ChaCha8Rng,
    /// Scratch: (logit or probability, token).
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the start of its random stream.
    ///
    /// # Errors
    /// A parameter outside its range.
    pub fn new(sampling: Sampling) -> Result<Self, EngineError> {
        sampling.check()?;
        let random = ChaCha8Rng::seed_from_u64(sampling.seed);
        Ok(Sampler { sampling, random, candidates: Vec::new() })
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
    /// [`Sampler::uniform`].
    ///
    /// # Errors
    /// A logit that is NaN or infinite: sampling from it would stream garbage as if nothing were wrong.
    pub fn sample(&mut self, logits: &[f32], text: &[u32], random: f32) -> Result<u32, EngineError> {
        if let Some((token, &value)) = logits.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            return Err(EngineError::NonFiniteLogits { value, token, position: text.len() });
        }
        let Sampling { repetition_penalty, temperature, top_k, top_p, min_p, .. } = self.sampling;
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(logits.iter().zip(0..).map(|(&logit, token)| (logit, token)));
        if repetition_penalty != 1.0 {
            for &token in text {
                // The untouched logit is the source, so a token that occurs twice is penalised once.
                let logit = logits[token as usize];
                candidates[token as usize].0 =
                    if logit > 0.0 { logit / repetition_penalty } else { logit * repetition_penalty };
            }
        }
        let largest =
            candidates.iter().fold(candidates[0], |best, &next| if next.0 > best.0 { next } else { best });
        if temperature == 0.0 {
            return Ok(largest.1);
        }
        // Likelier first; equal ones by id, so that the order is total and the same everywhere.
        let by_likelihood = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_likelihood);
            candidates.truncate(top_k);
        }
        for candidate in candidates.iter_mut() {
            candidate.0 = ((candidate.0 - largest.0) / temperature).exp();
        }
        if top_p < 1.0 {
            candidates.sort_unstable_by(by_likelihood);
            let wanted = top_p * total(candidates);
            let mut sum = 0.0;
            let kept = candidates.iter().take_while(|candidate| {
                let open = sum < wanted;
                sum += candidate.0;
                open
            });
            let kept = kept.count().max(1);
            candidates.truncate(kept);
        }
        if min_p > 0.0 {
            // The likeliest has weight 1, so a weight is its share of the likeliest.
            candidates.retain(|candidate| candidate.0 >= min_p);
        }
        Ok(draw(random, candidates))
    }
}

fn total(candidates: &[(f32, u32)]) -> f32 {
    candidates.iter().map(|candidate| candidate.0).sum()
}

/// One token with probability proportional to its weight.
fn draw(random: f32, candidates: &[(f32, u32)]) -> u32 {
    let mut left = random * total(candidates);
    for &(weight, token) in candidates {
        left -= weight;
        if left < 0.0 {
            return token;
        }
    }
    // Rounding can leave a crumb: it belongs to the last token that has any weight.
    candidates.iter().rev().find(|candidate| candidate.0 > 0.0).map_or(0, |candidate| candidate.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling) -> Sampler {
        Sampler::new(sampling).unwrap()
    }

    fn next(sampler: &mut Sampler, logits: &[f32], text: &[u32]) -> Result<u32, EngineError> {
        let random = sampler.uniform();
        sampler.sample(logits, text, random)
    }

    fn histogram(sampling: Sampling, logits: &[f32], draws: usize) -> Vec<f32> {
        let mut sampler = sampler(sampling);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..draws {
            counts[next(&mut sampler, logits, &[]).unwrap() as usize] += 1.0 / draws as f32;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equal_largest() {
        assert_eq!(next(&mut sampler(Sampling::default()), &[0.0, 3.0, 3.0, 1.0], &[]).unwrap(), 1);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [1.0f32, 0.0, -1.0, 0.5];
        let shares = histogram(Sampling { temperature: 0.7, ..Sampling::default() }, &logits, 40_000);
        let weights: Vec<f32> = logits.iter().map(|x| (x / 0.7).exp()).collect();
        let sum: f32 = weights.iter().sum();
        for (share, weight) in shares.iter().zip(&weights) {
            assert!((share - weight / sum).abs() < 0.01, "{shares:?}");
        }
    }

    #[test]
    fn each_filter_leaves_exactly_its_tokens() {
        let logits = [0.0f32, 2.0, 1.0, 1.5, -9.0]; // softmax about .07 .52 .19 .31 with e^-9 left over
        let hot = Sampling { temperature: 1.0, ..Sampling::default() };
        let survivors = |sampling| {
            histogram(sampling, &logits, 4000).iter().map(|&share| share > 0.0).collect::<Vec<_>>()
        };
        assert_eq!(survivors(Sampling { top_k: 2, ..hot.clone() }), [false, true, false, true, false]);
        assert_eq!(survivors(Sampling { top_p: 0.5, ..hot.clone() }), [false, true, false, true, false]);
        assert_eq!(survivors(Sampling { top_p: 0.1, ..hot.clone() }), [false, true, false, false, false]);
        assert_eq!(survivors(Sampling { min_p: 0.3, ..hot.clone() }), [false, true, true, true, false]);
        assert_eq!(survivors(Sampling { min_p: 1.0, ..hot }), [false, true, false, false, false]);
    }

    #[test]
    fn a_penalty_applies_once_per_token_and_pushes_both_signs_down() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(next(&mut sampler(sampling.clone()), &[4.0, 3.0, 2.5], &[0, 0]).unwrap(), 1);
        assert_eq!(next(&mut sampler(sampling.clone()), &[4.0, 1.5, 1.0], &[0, 0]).unwrap(), 0);
        assert_eq!(next(&mut sampler(sampling), &[-1.0, -1.5], &[0]).unwrap(), 1);
    }

    #[test]
    fn equal_seeds_give_equal_draws() {
        let hot = Sampling { temperature: 1.3, seed: 7, ..Sampling::default() };
        let draws = |seed| {
            let mut sampler = sampler(Sampling { seed, ..hot.clone() });
            (0..50).map(|_| next(&mut sampler, &[0.1, 0.2, 0.3, 0.4], &[]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn nan_logits_are_an_error_and_not_a_token() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = next(&mut sampler(Sampling::default()), &[0.0, bad], &[3]).unwrap_err();
            assert!(error.to_string().contains("token 1"), "{error}");
        }
    }

    #[test]
    fn parameters_outside_their_range_are_named() {
        let bad = [
            (Sampling { temperature: -1.0, ..Sampling::default() }, "temperature"),
            (Sampling { temperature: f32::NAN, ..Sampling::default() }, "temperature"),
            (Sampling { top_p: 0.0, ..Sampling::default() }, "top_p"),
            (Sampling { top_p: 1.1, ..Sampling::default() }, "top_p"),
            (Sampling { min_p: -0.1, ..Sampling::default() }, "min_p"),
            (Sampling { repetition_penalty: 0.0, ..Sampling::default() }, "repetition_penalty"),
        ];
        for (sampling, name) in bad {
            assert!(Sampler::new(sampling).unwrap_err().to_string().starts_with(name));
        }
    }
}
