//! `keyformer`: heavy hitters under noise.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::random::SEED;
use crate::ranked::{self, AMOUNT, EVERY, Layer, RECENT, Recipe, SINKS, Scorer, WHEN};
use crate::scorers::{self, Noise, Place};
use crate::{Method, Parameter, ParameterKind};

pub(crate) const METHOD: Method = Method {
    name: "keyformer",
    summary: "Keeps the tokens that got most attention so far, had the logits been noisy and softer, per KV head.",
    details: "\
As `h2o`, but what is summed is softmax((logits + noise) / temperature), with standard Gumbel noise, drawn anew for every \
query, head and entry: what is gone cannot take its part of a softmax any more, and the noise stands in for it. Attention \
itself has no noise. Sums are averaged over the query heads of a KV head. The paper gives part of the budget to recent tokens: \
write `keyformer(recent=64, when=every_query)@256`.

What was dropped is gone. The original hides it behind a mask that is never lifted, so nothing of that is lost; its mask also \
hides the token that has just left the recent ones before it can be chosen, so that after the prompt no new token becomes a \
key token: a slip of one column, which ours does not have. There the temperature rises with every generated token; here it \
stays. Noise is a function of seed, layer, head, query and entry.

Costs: one f32 for each entry; a product of every query with every key, and as many random numbers.",
    source: "Adnan et al. 2024, arXiv 2403.09054; d-matrix-ai/keyformer-llm",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let seed = u64::from(arguments.count("seed")?);
        let scorer = Keyformer {
            temperature: arguments.number("temperature")? as f32,
            noise: arguments.flag("noise")?.then_some(Noise { seed }),
        };
        Recipe::new(scorer, arguments.count("sinks")?, arguments.count("recent")?).when(arguments)
    }),
    parameters: &[
        Parameter {
            name: "temperature",
            kind: ParameterKind::Number { most: 100 },
            default: "1",
            help: "what noisy logits are divided by",
        },
        Parameter {
            name: "noise",
            kind: ParameterKind::Flag,
            default: "true",
            help: "whether logits are noisy",
        },
        SEED,
        SINKS,
        RECENT,
        WHEN,
        EVERY,
    ],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct Keyformer {
    temperature: f32,
    noise: Option<Noise>,
}

impl Scorer for Keyformer {
    fn ordered(&self) -> bool {
        false
    }

    fn statistics(&self) -> usize {
        1
    }

    fn observe(&self, layer: &Layer<'_>, statistics: &mut [Vec<f32>]) -> Result<(), PolicyError> {
        let shape = (layer.head_dim(), layer.group());
        let query = |row: usize| layer.first_position() + row as u32;
        let queries = layer.queries_as_taken(layer.queries());
        for (head, (queries, sums)) in queries.iter().zip(statistics).enumerate() {
            let (keys, positions) = (layer.keys(head)?, layer.positions(head));
            let sees = |row: usize, entry: usize| {
                positions[entry] <= query(row) && query(row) < layer.expires_at(head, entry)
            };
            let noise = |member: usize, row: usize, entry: usize| {
                let head = head * layer.group() + member;
                let place = Place { layer: layer.index(), head, query: query(row), entry: positions[entry] };
                self.noise.map_or(0.0, |noise| noise.gumbel(place))
            };
            let softness = (layer.scale(), self.temperature);
            scorers::keyformer_accumulate(sums, queries, &keys, shape, softness, sees, noise);
        }
        Ok(())
    }

    fn data(&self) -> Option<Score> {
        let seed = self.noise.map(|noise| noise.seed);
        Some(Score::Softened { temperature: self.temperature, seed })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        Ok((0..layer.heads()).map(|head| layer.statistics(head)).collect())
    }
}
