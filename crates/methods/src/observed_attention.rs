//! `observed_attention`: the mean attention that an entry got.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Layer, RECENT, Recipe, SINKS, Scorer, WHEN};
use crate::{Method, scorers};

pub(crate) const METHOD: Method = Method {
    name: "observed_attention",
    summary: "Keeps the tokens that got most attention per query that saw them, per KV head.",
    details: "\
As `h2o`, but sums are divided by the number of queries that came since the entry's token, its own included, so that late \
tokens are not at a disadvantage. It is what NVIDIA/kvpress offers for H2O.

Costs: as `h2o`.",
    source: "NVIDIA/kvpress ObservedAttentionPress, after Zhang et al. 2023, arXiv 2306.14048",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let floors = (arguments.count("sinks")?, arguments.count("recent")?);
        Recipe::new(ObservedAttention, floors.0, floors.1).when(arguments)
    }),
    parameters: &[SINKS, RECENT, WHEN],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct ObservedAttention;

impl Scorer for ObservedAttention {
    fn ordered(&self) -> bool {
        false
    }

    fn statistics(&self) -> usize {
        1
    }

    fn observe(&self, layer: &Layer<'_>, statistics: &mut [Vec<f32>]) -> Result<(), PolicyError> {
        layer.add_mass(0..layer.queries(), statistics)
    }

    fn data(&self) -> Option<Score> {
        Some(Score::Attention { factor: 1.0, per_query: true })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let next = layer.tokens() as u32;
        let head = |head| scorers::observed_attention(&layer.statistics(head), layer.positions(head), next);
        Ok((0..layer.heads()).map(head).collect())
    }
}
