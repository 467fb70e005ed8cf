//! `pyramid`: lower layers keep more.

use crate::method::Ranks;
use crate::ranked::{self, AMOUNT, Layers, Recipe};
use crate::{Method, Parameter, ParameterKind};

pub(crate) const NAME: &str = "pyramid";

pub(crate) const METHOD: Method = Method {
    name: NAME,
    summary: "Gives lower layers more of the budget of another method: pyramid(snapkv)@0.2.",
    details: "\
Budgets fall along a straight line from the first layer to the last, which has `1 / beta` of the mean; `@` is the mean of \
all layers. A share is cut as kvpress does: where the last layer's would be smaller than the inner method's window, or the \
first layer's larger than the text, all layers have the same, rounded to the nearest. A number of tokens is cut as the paper's \
code does, in whole numbers: the window is taken off the mean, but not off both ends, so layers keep up to a window more than it, \
and texts below twice the mean are cut evenly.

Costs: those of the inner method.",
    source: "Cai et al. 2024, arXiv 2406.02069; as NVIDIA/kvpress PyramidKVPress and Zefan-Cai/KVCache-Factory PyramidKVCluster",
    amount: Some(AMOUNT),
    ranks: Ranks::Around(|arguments, facts| {
        let inner = Recipe::inner(arguments, facts)?;
        Ok(Recipe { layers: Layers::Pyramid { beta: arguments.count("beta")? }, ..inner })
    }),
    parameters: &[Parameter {
        name: "beta",
        kind: ParameterKind::Count { least: 1, most: 1000 },
        default: "20",
        help: "how many times the mean the last layer's budget is smaller",
    }],
    check: ranked::check,
    build: ranked::build,
};
