//! `a2sf`: heavy hitters whose past fades.

use crate::h2o::HeavyHitters;
use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, EVERY, RECENT, Recipe, SINKS, WHEN};
use crate::{Method, Parameter, ParameterKind};

pub(crate) const METHOD: Method = Method {
    name: "a2sf",
    summary: "Keeps the tokens that got most attention lately: sums that fade with every query, per KV head.",
    details: "\
As `h2o`, but with every query all sums are multiplied by `factor` first. So early tokens have no advantage for having been \
there longer, and what mattered once may go. A factor of 1 is `h2o`.

Costs: one f32 for each entry; the probabilities of every query, one more pass over the keys for each.",
    source: "Jo, Shin 2024, arXiv 2407.20485, equation 5",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let scorer = HeavyHitters { factor: arguments.share("factor")? as f32, per_query: false };
        Recipe::new(scorer, arguments.count("sinks")?, arguments.count("recent")?).when(arguments)
    }),
    parameters: &[
        Parameter {
            name: "factor",
            kind: ParameterKind::Share,
            default: "0.2",
            help: "what a sum is multiplied by with every query",
        },
        SINKS,
        RECENT,
        WHEN,
        EVERY,
    ],
    check: ranked::check,
    build: ranked::build,
};
