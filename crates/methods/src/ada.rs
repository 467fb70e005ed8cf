//! `ada`: heads share a budget by what their entries are worth.

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Heads, Recipe};
use crate::{Method, MethodError, Parameter, ParameterKind};

const NAME: &str = "ada";

pub(crate) const METHOD: Method = Method {
    name: NAME,
    summary: "Shares a layer's budget among its KV heads by the scores of another method: ada(snapkv)@0.2.",
    details: "\
Every KV head keeps the best `floor` of its budget; what is left of the layer's goes to the best entries of all heads, \
whichever head they are of. Heads that spread their attention so keep more than those that focus. Memory is really freed: \
lanes of a layer have different lengths.

The tokens that the inner method always keeps (sinks, windows) stay in every head. Scores are compared between heads as \
they are, as kvpress does. With `rule=original`, as in the paper's code, a head's scores are multiplied by the share that its best \
have of them all, what is always kept is not shared out, and a head keeps its share `floor` and, of the rest, as much as it has \
of the best entries, rounded: so a layer may keep a few entries more or less than its budget. That rule runs on the processor.

Costs: those of the inner method.",
    source: "Feng, Lv, Cao, Xie, Zhou 2024, arXiv 2407.11550; as NVIDIA/kvpress AdaKVPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Around(|arguments, facts| {
        let inner = Recipe::inner(arguments, facts)?;
        if !inner.scorer.per_head() {
            return Err(MethodError::NotPerHead { method: NAME });
        }
        let floor = arguments.fraction("floor")?;
        let original = arguments.text("rule")? == "original";
        let heads = if original { Heads::Weighed { floor } } else { Heads::Adaptive { floor } };
        Ok(Recipe { heads, ..inner })
    }),
    parameters: &[
        Parameter {
            name: "floor",
            kind: ParameterKind::Fraction,
            default: "0.2",
            help: "share of its budget that each head has for itself",
        },
        Parameter {
            name: "rule",
            kind: ParameterKind::Choice(&["kvpress", "original"]),
            default: "kvpress",
            help: "compare scores of heads as they are, or weigh heads as the paper's code does",
        },
    ],
    check: ranked::check,
    build: ranked::build,
};
