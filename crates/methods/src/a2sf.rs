//! `a2sf`: heavy hitters whose past fades.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Layer, RECENT, Recipe, SINKS, Scorer, WHEN};
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
        let scorer = A2sf { factor: arguments.share("factor")? as f32 };
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
    ],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct A2sf {
    factor: f32,
}

impl Scorer for A2sf {
    fn ordered(&self) -> bool {
        false
    }

    fn statistics(&self) -> usize {
        1
    }

    fn observe(&self, layer: &Layer<'_>, statistics: &mut [Vec<f32>]) -> Result<(), PolicyError> {
        for query in 0..layer.queries() {
            statistics.iter_mut().flatten().for_each(|sum| *sum *= self.factor);
            layer.add_mass(query..query + 1, statistics)?;
        }
        Ok(())
    }

    fn data(&self) -> Option<Score> {
        Some(Score::Attention { factor: self.factor, per_query: false })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        Ok((0..layer.heads()).map(|head| layer.statistics(head)).collect())
    }
}
