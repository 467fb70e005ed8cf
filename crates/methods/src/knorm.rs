//! `knorm`: small keys attract attention.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, EVERY, Layer, RECENT, Recipe, SINKS, Scorer, WHEN};
use crate::{Method, scorers};

pub(crate) const METHOD: Method = Method {
    name: "knorm",
    summary: "Keeps the keys with the smallest norms, per KV head.",
    details: "\
Keys of small L2 norm tend to get much attention, so the entries with the largest norms go. It looks at nothing but \
keys: no query, no attention. Norms are those of keys as the cache holds them, after the rotation, which does not \
change them.

The paper leaves the first two layers dense; like kvpress, this does not.

Costs: one read of all keys when it prunes; nothing is stored.",
    source: "Devoto, Zhao, Scardapane, Minervini 2024, arXiv 2406.11430; as NVIDIA/kvpress KnormPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        Recipe::new(Knorm, arguments.count("sinks")?, arguments.count("recent")?).when(arguments)
    }),
    parameters: &[SINKS, RECENT, WHEN, EVERY],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct Knorm;

impl Scorer for Knorm {
    fn ordered(&self) -> bool {
        false
    }

    fn data(&self) -> Option<Score> {
        Some(Score::KeyNorm)
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        (0..layer.heads()).map(|head| Ok(scorers::knorm(&layer.keys(head)?, layer.head_dim()))).collect()
    }
}
