//! A row of logits: which token does the sampler choose?
//!
//! Two passes over the vocabulary at most. One of them finds the largest logit of every short segment; from these, or
//! from a histogram of weights where top-p stands alone, follows a bound that all tokens meet which the filters can
//! keep, and few others. The filters then work on those few ([`Candidates`]).

use super::Sampling;
use super::candidates::{Candidates, Likelihood, Rank, part_of, place_of};
use crate::TokenLogProb;

/// Tokens whose largest logit is remembered: a search passes over most segments by it.
const SEGMENT: usize = 128;

/// Bins for each unit of depth, and their number: all depths at which weights are above 0, and one for the rest.
const BINS_PER_UNIT: f32 = 64.0;
const BINS: usize = (Likelihood::DEPTH * BINS_PER_UNIT) as usize + 1;

/// What the tokens of many rows, one after the other, are chosen in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    changed: Vec<f32>,
    counted: Vec<u32>,
    search: Search,
}

#[derive(Debug, Default)]
struct Search {
    /// The largest logit of each segment.
    maxima: Vec<f32>,
    selected: Vec<f32>,
    /// Sums of weights, by depth or by segment.
    sums: Vec<u64>,
    candidates: Candidates,
}

impl Scratch {
    /// The token that `sampling` and `random`, a number in [0, 1), choose after `text`, of which `prompt_tokens` were not
    /// generated, from finite logits `[v]`, at least one.
    pub(super) fn choose(
        &mut self,
        logits: &[f32],
        text: &[u32],
        prompt_tokens: usize,
        sampling: &Sampling,
        random: f32,
    ) -> u32 {
        if !sampling.changes_logits() {
            return self.search.choose(logits, sampling, random);
        }
        self.changed.clear();
        self.changed.extend_from_slice(logits);
        if sampling.repetition_penalty != 1.0 {
            for &token in text {
                // The untouched logit is the source, so a token that occurs twice is penalised once.
                let Some(&logit) = logits.get(token as usize) else { continue };
                self.changed[token as usize] = penalised(logit, sampling.repetition_penalty);
            }
        }
        if (sampling.frequency_penalty, sampling.presence_penalty) != (0.0, 0.0) {
            self.counted.clear();
            self.counted.extend_from_slice(&text[prompt_tokens..]);
            self.counted.sort_unstable();
            for same in self.counted.chunk_by(|a, b| a == b) {
                let penalty = sampling.frequency_penalty * same.len() as f32 + sampling.presence_penalty;
                add(&mut self.changed, same[0], -penalty);
            }
        }
        sampling.logit_bias.iter().for_each(|&(token, bias)| add(&mut self.changed, token, bias));
        self.search.choose(&self.changed, sampling, random)
    }

    /// How likely `token` is by finite logits `[v]`, and the `top` likeliest tokens; impossible where it is no token.
    pub(super) fn log_prob(&mut self, logits: &[f32], token: u32, top: usize) -> TokenLogProb {
        self.search.log_prob(logits, token, top)
    }
}

impl Sampling {
    fn changes_logits(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.frequency_penalty != 0.0
            || self.presence_penalty != 0.0
            || !self.logit_bias.is_empty()
    }
}

/// Adds to the logit of a token, which stays finite.
fn add(logits: &mut [f32], token: u32, bias: f32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = (*logit + bias).clamp(f32::MIN, f32::MAX);
    }
}

/// The logit of a token that the text has already; finite whatever the penalty.
fn penalised(logit: f32, penalty: f32) -> f32 {
    let logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
    logit.clamp(f32::MIN, f32::MAX)
}

impl Search {
    fn choose(&mut self, logits: &[f32], sampling: &Sampling, random: f32) -> u32 {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(SEGMENT).map(largest));
        let best = largest(&self.maxima);
        // Of equal logits the first.
        let first = |values: &[f32]| values.iter().position(|&value| value == best).unwrap_or_default();
        let segment = first(&self.maxima) * SEGMENT;
        let likeliest = (segment + first(&logits[segment..])) as u32;
        if sampling.temperature == 0.0 {
            return likeliest;
        }
        let likelihood = Likelihood { largest: best, temperature: sampling.temperature };
        let Sampling { top_k, top_p, min_p, .. } = *sampling;
        let has_top_k = (1..logits.len()).contains(&top_k);
        if !has_top_k && top_p == 1.0 && min_p == 0.0 {
            return self.draw_from_all(logits, likelihood, random).unwrap_or(likeliest);
        }
        if has_top_k {
            let least = self.bound_of_top(top_k);
            self.gather(logits, |logit| logit >= least);
            self.candidates.keep_top(top_k);
            let sum = self.candidates.weigh(likelihood);
            if top_p < 1.0 {
                self.candidates.keep_weight(weight_of(top_p, sum));
            }
        } else if top_p < 1.0 {
            let wanted = weight_of(top_p, self.sum_by_depth(logits, likelihood));
            // The bin of the last of the likeliest tokens that weigh so much.
            let last = place_of(wanted - 1, self.sums.iter().copied()).map_or(BINS, |(bin, _)| bin);
            self.gather(logits, |logit| bin_of(likelihood.depth(logit)) <= last);
            self.candidates.weigh(likelihood);
            self.candidates.keep_weight(wanted);
        } else {
            // One unit more than the depth of min-p, for the rounding of both.
            let depth = (1.0 - min_p.ln()).min(Likelihood::DEPTH);
            self.gather(logits, |logit| likelihood.depth(logit) <= depth);
            self.candidates.weigh(likelihood);
        }
        if min_p > 0.0 {
            self.candidates.keep_share(likelihood, min_p);
        }
        self.candidates.draw(random).unwrap_or(likeliest)
    }

    fn log_prob(&mut self, logits: &[f32], token: u32, top: usize) -> TokenLogProb {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(SEGMENT).map(largest));
        let likelihood = Likelihood { largest: largest(&self.maxima), temperature: 1.0 };
        let sum: f64 = logits.chunks(SEGMENT).map(|segment| f64::from(shares_of(likelihood, segment))).sum();
        let log_prob = |logit: f32| (f64::from(logit) - f64::from(likelihood.largest) - sum.ln()) as f32;
        let mut likeliest = Vec::new();
        if top > 0 {
            let least = self.bound_of_top(top);
            self.gather(logits, |logit| logit >= least);
            self.candidates.keep_top(top);
            let ranks = self.candidates.in_order().iter();
            likeliest.extend(ranks.map(|rank| (rank.token(), log_prob(rank.logit()))));
        }
        let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        TokenLogProb { token, log_prob: log_prob(logit), top: likeliest }
    }

    /// A token with probability proportional to its weight.
    fn draw_from_all(&mut self, logits: &[f32], likelihood: Likelihood, random: f32) -> Option<u32> {
        self.sums.clear();
        self.sums.extend(
            logits.chunks(SEGMENT).map(|segment| weights_of(likelihood, segment).iter().sum::<u64>()),
        );
        let target = part_of(self.sums.iter().sum(), random);
        let (segment, target) = place_of(target, self.sums.iter().copied())?;
        let first = segment * SEGMENT;
        let (token, _) = place_of(target, weights_of(likelihood, logits.get(first..)?))?;
        Some((first + token) as u32)
    }

    /// What the `count` likeliest logits reach: the largest ones of so many segments do.
    fn bound_of_top(&mut self, count: usize) -> f32 {
        if count > self.maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.selected.clone_from(&self.maxima);
        *self.selected.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
    }

    /// Adds up the weights of all tokens by their depth, and gives their sum.
    fn sum_by_depth(&mut self, logits: &[f32], likelihood: Likelihood) -> u64 {
        self.sums.clear();
        self.sums.resize(BINS, 0);
        for segment in logits.chunks(SEGMENT) {
            let depths = segment.iter().map(|&logit| likelihood.depth(logit));
            for (depth, weight) in depths.zip(weights_of(likelihood, segment)) {
                self.sums[bin_of(depth)] += weight;
            }
        }
        self.sums.iter().sum()
    }

    /// Makes candidates of the tokens that are `near` the likeliest; what is near a logit is near larger ones.
    fn gather(&mut self, logits: &[f32], near: impl Fn(f32) -> bool) {
        self.candidates.ranks.clear();
        for ((segment, &largest), first) in
            logits.chunks(SEGMENT).zip(&self.maxima).zip((0..).step_by(SEGMENT))
        {
            if near(largest) {
                let tokens = segment.iter().zip(first..).filter(|&(&logit, _)| near(logit));
                self.candidates.ranks.extend(tokens.map(|(&logit, token)| Rank::new(logit, token)));
            }
        }
    }
}

/// The bin of a depth: the deeper, the later.
fn bin_of(depth: f32) -> usize {
    ((depth * BINS_PER_UNIT) as u32 as usize).min(BINS - 1)
}

/// The weights of the first tokens of `logits`; 0 where there are fewer.
fn weights_of(likelihood: Likelihood, logits: &[f32]) -> [u64; SEGMENT] {
    let mut weights = [0; SEGMENT];
    for (weight, &logit) in weights.iter_mut().zip(logits) {
        *weight = likelihood.weight(logit);
    }
    weights
}

/// The sum of the shares of the tokens of one segment.
fn shares_of(likelihood: Likelihood, logits: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (whole, rest) = logits.as_chunks::<LANES>();
    let lanes = whole.iter().fold([0.0f32; LANES], |lanes, logits| {
        std::array::from_fn(|lane| lanes[lane] + likelihood.share(logits[lane]))
    });
    lanes.iter().sum::<f32>() + rest.iter().map(|&logit| likelihood.share(logit)).sum::<f32>()
}

/// The weight that the likeliest tokens must reach for top-p: at least the first one is kept.
fn weight_of(top_p: f32, sum: u64) -> u64 {
    ((f64::from(top_p) * sum as f64).ceil() as u64).max(1)
}

/// The largest of finite numbers, in lanes that become vectors.
fn largest(values: &[f32]) -> f32 {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = values.as_chunks::<LANES>();
    let lanes = whole.iter().fold([f32::NEG_INFINITY; LANES], |lanes, values| {
        std::array::from_fn(|lane| larger(lanes[lane], values[lane]))
    });
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &value| larger(best, value))
}
