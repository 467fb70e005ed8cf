//! `keydiff`: what is unlike the other keys stays.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, EVERY, Layer, RECENT, Recipe, SINKS, Scorer, WHEN};
use crate::{Method, scorers};

pub(crate) const METHOD: Method = Method {
    name: "keydiff",
    summary: "Keeps the keys that are least like the mean of all keys, per KV head.",
    details: "\
Every key is compared, by cosine, with the mean of all normalised keys of its head; the most similar ones go. It looks at \
nothing but keys: no query, no attention.

The paper prunes while a long prompt goes in, block by block, to bound its memory; like kvpress, this reads the prompt \
densely and prunes at its end, or after every query from there on.

Costs: one read of all keys when it prunes; nothing is stored.",
    source: "Park, Jones, Morse, Goel, Lee, Lott 2025, arXiv 2504.15364; as NVIDIA/kvpress KeyDiffPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        Recipe::new(Keydiff, arguments.count("sinks")?, arguments.count("recent")?).when(arguments)
    }),
    parameters: &[SINKS, RECENT, WHEN, EVERY],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct Keydiff;

impl Scorer for Keydiff {
    fn data(&self) -> Option<Score> {
        Some(Score::KeyDifference)
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        (0..layer.heads()).map(|head| Ok(scorers::keydiff(&layer.keys(head)?, layer.head_dim()))).collect()
    }
}
