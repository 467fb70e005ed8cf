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
they are, as kvpress does; the original code weighs them by head first.

Costs: those of the inner method.",
    source: "Feng, Lv, Cao, Xie, Zhou 2024, arXiv 2407.11550; as NVIDIA/kvpress AdaKVPress",
    amount: Some(AMOUNT),
    ranks: Ranks::Around(|arguments, facts| {
        let inner = Recipe::inner(arguments, facts)?;
        if !inner.scorer.per_head() {
            return Err(MethodError::Contradiction {
                method: NAME,
                what: "the method within it keeps the same tokens in all heads".into(),
                advice: "put it around one that ranks per head, such as ada(snapkv)@0.2".into(),
            });
        }
        Ok(Recipe { heads: Heads::Adaptive { floor: arguments.fraction("floor")? }, ..inner })
    }),
    parameters: &[Parameter {
        name: "floor",
        kind: ParameterKind::Fraction,
        default: "0.2",
        help: "share of its budget that each head has for itself",
    }],
    check: ranked::check,
    build: ranked::build,
};
