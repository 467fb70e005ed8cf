//! `expected_attention`: what future queries will look at, if they are like those so far.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Layer, Recipe, Scorer};
use crate::{MAX_COUNT, Method, Parameter, ParameterKind, scorers};

pub(crate) const METHOD: Method = Method {
    name: "expected_attention",
    summary: "Keeps what future queries are expected to attend to, if they are like the prompt's, per KV head.",
    details: "\
Queries of the prompt (without those of the sinks, before their rotation) are taken for a normal distribution; turned by the \
mean rotation of the next `future` positions they give every key an expected attention, which is multiplied by the length \
of its value. It needs no attention of the prompt.

All queries of the prompt must come in one step, so the prompt must not be longer than a step may hold (`--chunk`).

Costs: the queries' mean and covariance when the prompt ends, about as much as one more product of keys with a matrix \
`[d, d]` per query head; nothing is stored.",
    source: "Devoto, Jeblick, Jégou 2025, arXiv 2510.00636; as NVIDIA/kvpress ExpectedAttentionPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let sinks = arguments.count("sinks")?;
        let scorer = scorers::ExpectedAttention {
            sinks: sinks as usize,
            covariance: arguments.flag("covariance")?,
            value_norm: arguments.flag("value_norm")?,
            epsilon: arguments.fraction("epsilon")? as f32,
        };
        let future = arguments.count("future")?;
        Ok(Recipe::new(ExpectedAttention { scorer, future }, sinks, 0))
    }),
    parameters: &[
        Parameter {
            name: "sinks",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "4",
            help: "first tokens that always stay, and whose queries do not count",
        },
        Parameter {
            name: "future",
            kind: ParameterKind::Count { least: 1, most: 1 << 20 },
            default: "512",
            help: "next positions whose queries are expected",
        },
        Parameter {
            name: "covariance",
            kind: ParameterKind::Flag,
            default: "true",
            help: "count how far queries spread, beside their mean",
        },
        Parameter {
            name: "value_norm",
            kind: ParameterKind::Flag,
            default: "true",
            help: "multiply by the length of the value",
        },
        Parameter {
            name: "epsilon",
            kind: ParameterKind::Fraction,
            default: "0",
            help: "added to a probability before that, so that long values are not lost",
        },
    ],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct ExpectedAttention {
    scorer: scorers::ExpectedAttention,
    /// Next positions.
    future: u32,
}

impl Scorer for ExpectedAttention {
    fn data(&self) -> Option<Score> {
        let scorers::ExpectedAttention { sinks, covariance, value_norm, epsilon } = self.scorer;
        // Fits: parameters are 32 bits wide.
        Some(Score::Expected { sinks: sinks as u32, future: self.future, covariance, value_norm, epsilon })
    }

    fn together(&self) -> usize {
        usize::MAX
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let next = layer.tokens() as u32;
        let coming: Vec<(Vec<f32>, Vec<f32>)> =
            (next..next.saturating_add(self.future)).map(|position| layer.rotation(position)).collect();
        let rows = coming.iter().map(|(cosines, sines)| (cosines.as_slice(), sines.as_slice()));
        let (cosines, sines) = scorers::mean_rotation(rows).unwrap_or_default();
        // In a later turn of a conversation the queries of earlier ones are gone.
        let queries =
            layer.raw_queries(layer.queries().min(layer.tokens() - self.scorer.sinks.min(layer.tokens())))?;
        let head = |(head, queries): (usize, Vec<f32>)| {
            let (keys, values) = (layer.keys(head)?, layer.values(head)?);
            let shape = (layer.head_dim(), layer.group());
            Ok(self.scorer.score(&queries, &keys, &values, shape, layer.scale(), (&cosines, &sines)))
        };
        queries.into_iter().enumerate().map(head).collect()
    }
}
