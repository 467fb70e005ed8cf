//! `random`: the baseline that every scorer should beat.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, EVERY, Layer, RECENT, Recipe, SINKS, Scorer, WHEN};
use crate::{MAX_COUNT, Method, Parameter, ParameterKind, scorers};

/// What tells one run from another.
pub(crate) const SEED: Parameter = Parameter {
    name: "seed",
    kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
    default: "0",
    help: "what random numbers are a function of, beside layer, head and position",
};

pub(crate) const METHOD: Method = Method {
    name: "random",
    summary: "Keeps a random choice of entries, per KV head: what every other method should beat.",
    details: "\
Scores are a function of seed, layer, KV head and position, so a run repeats to the bit, and what was kept of a text is \
what is kept when it goes in again.

Costs: nothing but the choice.",
    source: "NVIDIA/kvpress RandomPress, which draws from torch's generator instead",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let scorer = Random { seed: u64::from(arguments.count("seed")?) };
        Recipe::new(scorer, arguments.count("sinks")?, arguments.count("recent")?).when(arguments)
    }),
    parameters: &[SEED, SINKS, RECENT, WHEN, EVERY],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct Random {
    seed: u64,
}

impl Scorer for Random {
    fn ordered(&self) -> bool {
        false
    }

    fn data(&self) -> Option<Score> {
        Some(Score::Noise { seed: self.seed })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let head = |head| scorers::random(self.seed, layer.index(), head, layer.positions(head));
        Ok((0..layer.heads()).map(head).collect())
    }
}
