//! `h2o`: heavy hitters and recent tokens.

use dropcap_policy::{PolicyError, Score, Span};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, EVERY, Layer, Looks, RECENT, Recipe, SINKS, Scorer, WHEN};
use crate::{Method, scorers};

pub(crate) const METHOD: Method = Method {
    name: "h2o",
    summary: "Keeps the tokens that got most attention so far (heavy hitters), per KV head.",
    details: "\
The attention probabilities that an entry gets are summed over all queries, from the first of the prompt on, and over the \
query heads of its KV head; the entries with the smallest sums go. With `when=every_query` sums go on behind the prompt and \
every query drops what is beyond the budget; `recent` newest tokens are not compared, because they had no time to \
gather. The paper gives half of the budget to them: write `h2o(recent=512, when=every_query)@1024`.

What was dropped is gone: this is the form of the original's `utils_real_drop`. Its masked form lets a token come back, \
which ours does not.

Costs: one f32 for each entry; the probabilities of every query, one more pass over the keys.",
    source: "Zhang et al. 2023, arXiv 2306.14048; FMInference/H2O utils_real_drop",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        Recipe::new(HeavyHitters { factor: 1.0, per_query: false }, arguments.count("sinks")?, arguments.count("recent")?).when(arguments)
    }),
    parameters: &[SINKS, RECENT, WHEN, EVERY],
    check: ranked::check,
    build: ranked::build,
};

/// The attention that an entry got: what `h2o`, `observed_attention` and `a2sf` go by.
#[derive(Debug)]
pub(crate) struct HeavyHitters {
    /// What a sum is multiplied by with every query.
    pub(crate) factor: f32,
    /// Whether sums count per query that saw the entry.
    pub(crate) per_query: bool,
}

impl Scorer for HeavyHitters {
    fn ordered(&self) -> bool {
        false
    }

    fn statistics(&self) -> usize {
        1
    }

    fn looks(&self, _span: &Span, _acts: bool) -> Looks {
        if self.factor == 1.0 { Looks::Adds } else { Looks::Nowhere }
    }

    fn observe(&self, layer: &Layer<'_>, statistics: &mut [Vec<f32>]) -> Result<(), PolicyError> {
        if let Some(taken) = layer.taken() {
            statistics.clone_from_slice(taken);
            return Ok(());
        }
        for query in 0..layer.queries() {
            statistics.iter_mut().flatten().for_each(|sum| *sum *= self.factor);
            layer.add_mass(query..query + 1, statistics)?;
        }
        Ok(())
    }

    fn data(&self) -> Option<Score> {
        Some(Score::Attention { factor: self.factor, per_query: self.per_query })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let next = layer.tokens() as u32;
        let head = |head| match layer.statistics(head) {
            sums if self.per_query => scorers::observed_attention(&sums, layer.positions(head), next),
            sums => sums,
        };
        Ok((0..layer.heads()).map(head).collect())
    }
}
