//! `compactor`: keys that stand alone, and those that their neighbours look at.

use dropcap_policy::{PolicyError, Score};

use crate::method::Ranks;
use crate::random::SEED;
use crate::ranked::{self, AMOUNT, Layer, Recipe, Scorer};
use crate::{Amount, Arguments, MAX_COUNT, Method, MethodError, Parameter, ParameterKind, scorers};

pub(crate) const METHOD: Method = Method {
    name: "compactor",
    summary: "Keeps keys that stand alone among the others (leverage), and those that their neighbours look at, per KV head.",
    details: "\
Two scores are added, each as a z-score over all heads of the layer: the leverage of a key before its rotation among all keys \
of its head, computed from a random sketch of `sketch` columns, and the attention that it gets from the `chunk` tokens around \
it when all of them see each other, times the length of its value. Leverage weighs `blending` times as much as attention; \
kvpress takes the share that is removed for it. The `first` and `last` tokens always stay. Nothing depends on a question: of \
the methods here it remembers most of what nobody has asked for yet.

All queries of the prompt must come in one step, so the prompt must not be longer than a step may hold (`--chunk`). The sketch \
is a function of seed, layer and head; kvpress draws it from torch's generator.

Costs: one read of all keys and values when the prompt ends, `chunk` products per token and head, and a factorisation of \
`[sketch, sketch]` per head; nothing is stored. On a GPU a sketch has at most 128 columns.",
    source: "Chari, Van Durme 2025, arXiv 2507.08143; as NVIDIA/kvpress CompactorPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        let (first, last) = (arguments.count("first")?, arguments.count("last")?);
        let scorer = Compactor {
            first: first as usize,
            last: last as usize,
            chunk: arguments.count("chunk")? as usize,
            sketch: arguments.count("sketch")? as usize,
            blending: blending(arguments)?,
            seed: u64::from(arguments.count("seed")?),
        };
        Ok(Recipe::new(scorer, first, last))
    }),
    parameters: &[
        Parameter {
            name: "first",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "8",
            help: "first tokens that always stay; they count",
        },
        Parameter {
            name: "last",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "4",
            help: "newest tokens of the prompt that always stay; they count",
        },
        Parameter {
            name: "chunk",
            kind: ParameterKind::Count { least: 1, most: MAX_COUNT },
            default: "256",
            help: "tokens that see each other",
        },
        Parameter {
            name: "sketch",
            kind: ParameterKind::Count { least: 1, most: 4096 },
            default: "48",
            help: "columns of the sketch",
        },
        Parameter {
            name: "blending",
            kind: ParameterKind::Fraction,
            default: "0.8",
            help: "weight of leverage beside attention's 1; left out, it is the share that is removed, if that is told",
        },
        SEED,
    ],
    check: ranked::check,
    build: ranked::build,
};

/// The weight of leverage.
fn blending(arguments: &Arguments<'_>) -> Result<f32, MethodError> {
    match arguments.amount() {
        Some(Amount::Share(kept)) if !arguments.is_given("blending") => Ok((1.0 - kept) as f32),
        _ => Ok(arguments.fraction("blending")? as f32),
    }
}

#[derive(Debug)]
struct Compactor {
    first: usize,
    last: usize,
    chunk: usize,
    sketch: usize,
    blending: f32,
    seed: u64,
}

impl Scorer for Compactor {
    fn together(&self) -> usize {
        usize::MAX
    }

    fn data(&self) -> Option<Score> {
        let Self { first, last, chunk, sketch, blending, seed } = *self;
        // Fit: parameters are 32 bits wide.
        let [first, last, chunk, columns] = [first, last, chunk, sketch].map(|number| number as u32);
        Some(Score::Compact { first, last, chunk, columns, blending, seed })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        let width = layer.head_dim();
        let (mut leverages, mut attentions) = (Vec::new(), Vec::new());
        for (head, queries) in layer.queries_of_entries().into_iter().enumerate() {
            let entries = layer.positions(head).len();
            let judged =
                self.first.min(entries)..entries.saturating_sub(self.last).max(self.first.min(entries));
            let part = |rows: Vec<f32>| rows[judged.start * width..judged.end * width].to_vec();
            let (raw, keys, values) =
                (part(layer.raw_keys(head)?), part(layer.keys(head)?), part(layer.values(head)?));
            let queries = queries.chunks_exact((entries * width).max(1));
            let queries: Vec<f32> = queries.flat_map(|rows| part(rows.to_vec())).collect();
            let sketch = scorers::gaussian_sketch(self.seed, layer.index(), head, width, self.sketch);
            leverages.push(scorers::leverage(&raw, width, &sketch));
            let shape = (width, layer.group());
            attentions.push(scorers::non_causal_attention(&queries, &keys, &values, shape, self.chunk));
        }
        let scorer = scorers::Compactor { first: self.first, last: self.last, blending: self.blending };
        Ok(scorer.score(leverages, attentions))
    }
}
