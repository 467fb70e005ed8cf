//! `observed_attention`: the mean attention that an entry got.

use crate::Method;
use crate::h2o::HeavyHitters;
use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, EVERY, RECENT, Recipe, SINKS, WHEN};

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
        let scorer = HeavyHitters { factor: 1.0, per_query: true };
        Recipe::new(scorer, arguments.count("sinks")?, arguments.count("recent")?).when(arguments)
    }),
    parameters: &[SINKS, RECENT, WHEN, EVERY],
    check: ranked::check,
    build: ranked::build,
};
