//! `squeeze`: layers that change little keep little.

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Layers, Recipe};
use crate::{Method, MethodError, Parameter, ParameterKind};

pub(crate) const NAME: &str = "squeeze";

pub(crate) const METHOD: Method = Method {
    name: NAME,
    summary: "Takes budget from the layers whose attention changes little: squeeze(h2o)@0.2.",
    details: "\
How little a layer changes is the cosine between the residual stream before and after its attention, averaged over the prompt's \
tokens. When the prompt has ended in all layers, they are put in three groups by that number (k-means); those of the most similar \
group keep `least` times the budget, and what they spare the others share evenly, so `@` is the mean of all layers, rounded down. \
With `when=every_query` of the inner method the groups stay as they are and the budgets hold for every query.

Nothing is dropped before all layers have seen the prompt. Where budgets of the others would be more than the text, what is spared is \
lost. Of fewer than three layers, and where all change alike, all have the same. Groups are those of exact k-means in one dimension; \
the original starts it at random. It states both groups' budgets as shares of the prompt, and so lets the mean be missed; here \
`least` is the paper's p, a share of the mean. Not around `citrus` and `nacl`, whose choices are not scores alone.

Costs: one pass over the residual stream of the prompt for each layer, and one f32 for each entry beside those of the inner \
method; on a GPU the residual stream of a step a second time, and nothing beside the entries.",
    source: "Wang, Cui, Gan 2024, arXiv 2404.04793; hetailang/SqueezeAttention",
    amount: Some(AMOUNT),
    ranks: Ranks::Around(|arguments, facts| {
        let inner = Recipe::inner(arguments, facts)?;
        if inner.scorer.stride() > 0 || inner.scorer.draws() {
            return Err(MethodError::Contradiction {
                method: NAME,
                what: "the method within it chooses before the budgets of layers are known".into(),
                advice: "put it around one that scores: squeeze(h2o)@0.2".into(),
            });
        }
        Ok(Recipe { layers: Layers::Squeezed { least: arguments.fraction("least")? }, ..inner })
    }),
    parameters: &[Parameter {
        name: "least",
        kind: ParameterKind::Fraction,
        default: "0.35",
        help: "share of the mean budget that the layers keep which change least",
    }],
    check: ranked::check,
    build: ranked::build,
};
