//! The tokens that may still be chosen: the filters that thin them out, and the draw.
//!
//! Candidates stay in the order of their ids. A filter looks for the last token that it keeps, by selection on a copy,
//! and drops what ranks below: nothing is sorted.

/// Orders tokens: the likelier first, of equal ones the lower id first; the larger rank comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u64);

impl Rank {
    pub(super) fn new(logit: f32, token: u32) -> Self {
        let bits = logit.to_bits();
        // Integers that are ordered as f32::total_cmp orders floats.
        let ordered = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
        Rank(u64::from(ordered) << 32 | u64::from(!token))
    }

    pub(super) fn logit(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered >> 31 == 0 { !ordered } else { ordered & !(1 << 31) })
    }

    pub(super) fn token(self) -> u32 {
        !(self.0 as u32)
    }
}

/// How likely tokens are beside the likeliest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Likelihood {
    /// The largest logit.
    pub(super) largest: f32,
    /// Above 0.
    pub(super) temperature: f32,
}

/// One as a weight: 40 binary places. Weights of 2^22 tokens can be added, and whatever is rounded to 0 has less than
/// 2^-18 of the likeliest one's share all together.
const ONE: f32 = (1u64 << 40) as f32;

impl Likelihood {
    /// Units of temperature below the largest logit from which on every weight is 0: `exp(-28) < 2^-40`.
    pub(super) const DEPTH: f32 = 28.0;

    /// How far a logit lies below the largest, in units of the temperature; never NaN.
    #[inline]
    pub(super) fn depth(self, logit: f32) -> f32 {
        (self.largest - logit) / self.temperature
    }

    /// Probability as a share of the likeliest token's.
    #[inline]
    pub(super) fn share(self, logit: f32) -> f32 {
        exp_of_minus(self.depth(logit))
    }

    /// The share as an integer, because sums of integers do not depend on the order in which they are added.
    #[inline]
    pub(super) fn weight(self, logit: f32) -> u64 {
        (self.share(logit) * ONE) as i64 as u64
    }
}

/// `exp(-depth)` for a depth of 0 and more, with a relative error below 2e-7; 1 at 0. Without branches or calls, so
/// that a loop over all tokens can become vector code, which a call of the library's function prevents.
#[inline]
fn exp_of_minus(depth: f32) -> f32 {
    // Adding and taking it away rounds to an integer.
    const ROUND: f32 = (3 << 22) as f32;
    // ln 2 in two parts, whose products with small integers are exact in the first.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = -depth.min(87.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2.0) - n * LN_2.1;
    // Taylor's series; |r| is at most ln 2 / 2.
    let terms = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let exp = terms.into_iter().fold(0.0, |sum, term| sum * r + term);
    // The last bits of the rounded number are n; they become the exponent of a power of two.
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    exp * f32::from_bits(exponent << 23)
}

/// Tokens in the order of their ids, with room to select in.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) ranks: Vec<Rank>,
    weighed: Vec<(Rank, u64)>,
    order: Vec<(Rank, u64)>,
    ranked: Vec<Rank>,
}

impl Candidates {
    /// Keeps the `count` likeliest.
    pub(super) fn keep_top(&mut self, count: usize) {
        if count >= self.ranks.len() {
            return;
        }
        self.ranked.clone_from(&self.ranks);
        let (_, &mut last, _) = self.ranked.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        self.ranks.retain(|&rank| rank >= last);
    }

    /// The candidates, likeliest first.
    pub(super) fn in_order(&mut self) -> &[Rank] {
        self.ranks.sort_unstable_by(|a, b| b.cmp(a));
        &self.ranks
    }

    /// Gives every candidate its weight, and their sum.
    pub(super) fn weigh(&mut self, likelihood: Likelihood) -> u64 {
        self.weighed.clear();
        self.weighed.extend(self.ranks.iter().map(|&rank| (rank, likelihood.weight(rank.logit()))));
        total(&self.weighed)
    }

    /// Keeps the fewest that are likeliest and weigh `wanted`, which is at least 1 and at most what all weigh.
    pub(super) fn keep_weight(&mut self, wanted: u64) {
        self.order.clone_from(&self.weighed);
        if let Some(last) = last_of(&mut self.order, wanted) {
            self.weighed.retain(|&(rank, _)| rank >= last);
        }
    }

    /// Keeps what has at least the share `least` of the likeliest one's probability.
    pub(super) fn keep_share(&mut self, likelihood: Likelihood, least: f32) {
        self.weighed.retain(|(rank, _)| likelihood.share(rank.logit()) >= least);
    }

    /// One token with probability proportional to its weight; `random` is in [0, 1).
    pub(super) fn draw(&self, random: f32) -> Option<u32> {
        let target = part_of(total(&self.weighed), random);
        let (at, _) = place_of(target, self.weighed.iter().map(|&(_, weight)| weight))?;
        self.weighed.get(at).map(|(rank, _)| rank.token())
    }
}

/// `part`, which is in [0, 1), of a sum of weights.
pub(super) fn part_of(sum: u64, part: f32) -> u64 {
    ((f64::from(part) * sum as f64) as u64).min(sum.saturating_sub(1))
}

/// The place at which the sum of weights passes `target`, and what is left of it there.
pub(super) fn place_of(mut target: u64, weights: impl IntoIterator<Item = u64>) -> Option<(usize, u64)> {
    for (at, weight) in weights.into_iter().enumerate() {
        if target < weight {
            return Some((at, target));
        }
        target -= weight;
    }
    None
}

fn total(candidates: &[(Rank, u64)]) -> u64 {
    candidates.iter().map(|&(_, weight)| weight).sum()
}

/// The last of the shortest list of the likeliest that weighs `wanted`: each turn selects the middle of what is left,
/// and goes on in the half in which the sum is reached, so that all turns together are linear.
fn last_of(mut left: &mut [(Rank, u64)], mut wanted: u64) -> Option<Rank> {
    while left.len() > 1 {
        let middle = left.len() / 2;
        left.select_nth_unstable_by(middle, |a, b| b.cmp(a));
        let (front, back) = left.split_at_mut(middle);
        let sum = total(front);
        left = if sum >= wanted {
            front
        } else {
            wanted -= sum;
            back
        };
    }
    left.first().map(|&(rank, _)| rank)
}
