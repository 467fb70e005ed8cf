//! `duo_attention`: heads that look far back keep everything, the others a window.

use std::path::Path;
use std::sync::Arc;

use dropcap_policy::{Action, EvictionPolicy, HeadSet, Rule, Rules};

use crate::budgets::streaming_heads;
use crate::method::Ranks;
use crate::{Arguments, HeadProfile, MAX_COUNT, Method, MethodError, ModelFacts, Parameter, ParameterKind};

pub(crate) const METHOD: Method = Method {
    name: "duo_attention",
    summary: "Keeps everything in the heads that look far back, and sinks and a window in the others, by a profile of the model.",
    details: "\
A profile says of each KV head how much it looks far back. The share `sparsity` of all heads with the lowest numbers stream: \
they keep the first `sinks` tokens and a window, so their memory is constant, and lanes of a layer have different lengths. The \
others keep everything. Which heads are equal is decided by their place, lower layers and heads first; the original adds noise.

With `when=rolling`, every query of a streaming head sees the first `sinks` tokens and the last `recent`, itself included, as \
when the published profiles were trained. With `when=prefill_end`, as the original is deployed, the prompt sees all of \
itself; when it ends, streaming heads keep the sinks and `recent` tokens, and every query behind it sees those and itself. The \
original lets the tokens of a chunk behind the prompt see each other; ours decides query by query, so chunks change nothing.

The profile is a file that `dropcap profile` writes, one of DuoAttention (`full_attention_heads.tsv`: a line per layer, a number \
per KV head, clipped to 0 to 1) or of Retrieval Head (JSON: `\"layer-head\"` of query heads to the scores of trials; heads that \
share a KV head count by their mean). A profile of another shape is refused, and one of ours that was measured on another \
model; of the published ones nobody can tell.

Costs: nothing beyond the cache.",
    source: "Xiao et al. 2024, arXiv 2410.10819; mit-han-lab/duo-attention; profiles also of Wu et al. 2024, arXiv 2404.15574",
    amount: None,
    ranks: Ranks::No,
    parameters: &[
        Parameter {
            name: "profile",
            kind: ParameterKind::File,
            default: "full_attention_heads.tsv",
            help: "the profile; a relative path is looked for in the working directory, then in the model's folder",
        },
        Parameter {
            name: "sparsity",
            kind: ParameterKind::Fraction,
            default: "0.5",
            help: "share of the heads that stream",
        },
        Parameter {
            name: "sinks",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "64",
            help: "first tokens that streaming heads keep",
        },
        Parameter {
            name: "recent",
            kind: ParameterKind::Count { least: 1, most: MAX_COUNT },
            default: "256",
            help: "newest tokens that streaming heads keep",
        },
        Parameter {
            name: "when",
            kind: ParameterKind::Choice(&["rolling", "prefill_end"]),
            default: "rolling",
            help: "let tokens go as they leave the window, or from the end of the prompt on",
        },
    ],
    check: |_| Ok(()),
    build,
};

fn build(arguments: &Arguments<'_>, facts: &ModelFacts) -> Result<Arc<dyn EvictionPolicy>, MethodError> {
    let path = facts.resolve(arguments.text("profile")?);
    let streaming = streaming(&path, facts, arguments.fraction("sparsity")?)?;
    let (sinks, recent) = (arguments.count("sinks")?, arguments.count("recent")?);
    let action = if arguments.text("when")? == "rolling" {
        Action::Window { sinks, recent }
    } else {
        // One more, because a query behind the prompt sees itself beside what was kept.
        Action::WindowBehind { sinks, recent: recent.saturating_add(1) }
    };
    Ok(Arc::new(Rules::new(vec![Rule::new(action).among(streaming)])))
}

/// The heads that stream.
fn streaming(path: &Path, facts: &ModelFacts, sparsity: f64) -> Result<HeadSet, MethodError> {
    let gates = HeadProfile::read(path)?.of_kv_heads(facts)?;
    Ok(HeadSet::new(streaming_heads(&gates, sparsity)))
}

#[cfg(test)]
mod tests;
