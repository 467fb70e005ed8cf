//! `lagkv`: what stands out against the part of the text that follows.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Layer, Recipe, Scorer};
use crate::{MAX_COUNT, Method, Parameter, ParameterKind, scorers};

pub(crate) const METHOD: Method = Method {
    name: "lagkv",
    summary: "Keeps keys and values that vary most when scaled by the partition of text that follows, per KV head.",
    details: "\
Behind the sinks, entries lie in partitions of `lag`. Each channel of a key and of a value is scaled by its least and its \
largest value in the next partition; an entry's score is how much it then varies over its channels. The last whole \
partition and what is left over stay before all others. It looks at keys and values only. With `across=false`, as in the \
paper, scores are ranks within a partition, so that each keeps about as many.

The original gives sinks and tail the same score and so drops sinks where the budget is smaller than both; here sinks always \
stay, and of equal scores the later one.

Costs: one read of all keys and values when the prompt ends; nothing is stored.",
    source: "Liang, Zhang, Li, Li 2025, arXiv 2504.04704; as NVIDIA/kvpress LagKVPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let (sinks, lag) = (arguments.count("sinks")?, arguments.count("lag")? as usize);
        let scorer = scorers::LagKv { sinks: sinks as usize, lag, across: arguments.flag("across")? };
        Ok(Recipe::new(LagKv(scorer), sinks, 0))
    }),
    parameters: &[
        Parameter {
            name: "sinks",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "4",
            help: "first tokens that always stay; they count",
        },
        Parameter {
            name: "lag",
            kind: ParameterKind::Count { least: 1, most: MAX_COUNT },
            default: "128",
            help: "tokens of a partition",
        },
        Parameter {
            name: "across",
            kind: ParameterKind::Flag,
            default: "false",
            help: "compare scores of different partitions as they are",
        },
    ],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct LagKv(scorers::LagKv);

impl Scorer for LagKv {
    fn data(&self) -> Option<Score> {
        // Fit: parameters are 32 bits wide.
        let scorers::LagKv { sinks, lag, across } = self.0;
        Some(Score::Lag { sinks: sinks as u32, lag: lag as u32, across })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let head = |head| Ok(self.0.score(&layer.keys(head)?, &layer.values(head)?, layer.head_dim()));
        (0..layer.heads()).map(head).collect()
    }
}
