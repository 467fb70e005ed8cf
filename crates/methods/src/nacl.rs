//! `nacl`: what the prompt's last queries look at, and some by chance.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::random::SEED;
use crate::ranked::{self, AMOUNT, Layer, RECENT, Recipe, SINKS, Scorer};
use crate::scorers::{self, Noise, Place};
use crate::{Method, Parameter, ParameterKind};

pub(crate) const METHOD: Method = Method {
    name: "nacl",
    summary: "Keeps what the prompt's last tokens attend to, and a random part of the rest, per KV head.",
    details: "\
When the prompt ends, its last `proxies` queries attend to all entries, also to those behind them, and what they give an entry \
is summed and averaged over the query heads of a KV head. Beside `sinks` and `recent`, the best entries stay; but the share \
`chance` of the budget goes to entries that are drawn from the rest, the likelier the higher their score, so that what no proxy \
asks for has a chance too. Scores are sums of probabilities, so the draw is nearly even.

The draw is a function of seed, layer, head and position; the original draws from numpy's generator. It writes sinks, \
recent tokens, the best and the drawn as shares of the prompt, each rounded down: `@` is their sum here, and `chance` the \
drawn among the best and the drawn. Where heads share a KV head it takes one query head for another's group; ours is the mean \
of the group.

The proxies must come in one step, and more than a step may hold are refused.

Costs: `proxies` products with every key when the prompt ends; nothing is stored.",
    source: "Chen et al. 2024, arXiv 2408.03675; PaddlePaddle/Research NACL",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let (sinks, recent) = (arguments.count("sinks")?, arguments.count("recent")?);
        let scorer = Nacl {
            proxies: arguments.count("proxies")? as usize,
            sinks,
            recent,
            chance: arguments.fraction("chance")?,
            noise: Noise { seed: u64::from(arguments.count("seed")?) },
        };
        Ok(Recipe::new(scorer, sinks, recent))
    }),
    parameters: &[
        Parameter {
            name: "proxies",
            kind: ParameterKind::Count { least: 1, most: 4096 },
            default: "64",
            help: "last tokens of the prompt that choose",
        },
        Parameter {
            name: "chance",
            kind: ParameterKind::Fraction,
            default: "0.3",
            help: "share of what is chosen that is drawn",
        },
        SEED,
        SINKS,
        RECENT,
    ],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct Nacl {
    proxies: usize,
    sinks: u32,
    recent: u32,
    chance: f64,
    noise: Noise,
}

impl Scorer for Nacl {
    fn together(&self) -> usize {
        self.proxies
    }

    fn draws(&self) -> bool {
        true
    }

    fn data(&self) -> Option<Score> {
        // Fits: parameters are 32 bits wide.
        let (proxies, seed) = (self.proxies as u32, self.noise.seed);
        Some(Score::Drawn { proxies, chance: self.chance, seed })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let next = layer.tokens() as u32;
        let head = |(head, queries): (usize, Vec<f32>)| {
            let (keys, positions) = (layer.keys(head)?, layer.positions(head));
            let scores = scorers::nacl(&queries, &keys, layer.head_dim(), layer.group(), layer.scale());
            let first = positions.partition_point(|&position| position < self.sinks);
            let end = positions.partition_point(|&position| position.saturating_add(self.recent) < next);
            let middle = first..end.max(first);
            let chosen = layer.kept().saturating_sub(positions.len() - middle.len());
            let drawn = (chosen as f64 * self.chance) as usize;
            if drawn == 0 {
                return Ok(scores);
            }
            let place =
                |entry: usize| Place { layer: layer.index(), head, query: 0, entry: positions[entry] };
            Ok(scorers::nacl_draw(&scores, middle, chosen - drawn, &self.noise, place))
        };
        layer.queries_as_taken(self.proxies).into_iter().enumerate().map(head).collect()
    }
}
