//! `tova`: what the newest token looks at least goes.

use dropcap_policy::{PolicyError, Score, Span};

use crate::Method;
use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, EVERY, Layer, Looks, Recipe, SINKS, Scorer, WHEN};
use crate::{MAX_COUNT, Parameter, ParameterKind};

pub(crate) const METHOD: Method = Method {
    name: "tova",
    summary: "Drops the tokens that the last query attends to least, the same for all heads of a layer.",
    details: "\
Scores are the attention probabilities of the last query, averaged over all query heads, so all heads of a layer keep the \
same tokens. With `when=every_query` a prompt is cut at its end, and every query from there on ends the token that it \
attended to least, if the budget is full: a multi-state RNN of fixed size, as in the paper.

The original code protects nothing and often drops the newest token at once, which is `recent=0` here; NVIDIA/kvpress \
keeps it, and so does the default.

Costs: the probabilities of one query, one more pass over the keys; nothing is stored.",
    source: "Oren, Hassid, Yarden, Adi, Schwartz 2024, arXiv 2401.06104; schwartz-lab-NLP/TOVA and NVIDIA/kvpress TOVAPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Itself(|arguments, _| {
        Recipe::new(Tova, arguments.count("sinks")?, arguments.count("recent")?).when(arguments)
    }),
    parameters: &[
        SINKS,
        Parameter {
            name: "recent",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "1",
            help: "newest tokens that always stay; they count",
        },
        WHEN,
        EVERY,
    ],
    check: ranked::check,
    build: ranked::build,
};

#[derive(Debug)]
struct Tova;

impl Scorer for Tova {
    fn per_head(&self) -> bool {
        false
    }

    fn ordered(&self) -> bool {
        false
    }

    fn looks(&self, _span: &Span, acts: bool) -> Looks {
        if acts { Looks::Last { window: 1, apart: false } } else { Looks::Nowhere }
    }

    fn data(&self) -> Option<Score> {
        Some(Score::Attention { factor: 0.0, per_query: false })
    }

    fn score(&self, layer: &Layer<'_>) -> Result<Vec<Vec<f32>>, PolicyError> {
        Ok(vec![layer.over_heads(&layer.mass())])
    }
}
