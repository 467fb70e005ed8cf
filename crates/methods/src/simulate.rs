//! `simulate`: the learned method's work with a chosen outcome, for benchmarks.

use std::sync::Arc;

use dropcap_policy::{Action, Rule, Rules};

use crate::method::Ranks;
use crate::{Gates, MAX_GATE_WIDTH, Method, MethodError, Parameter, ParameterKind};

pub(crate) const METHOD: Method = Method {
    name: "simulate",
    summary: "For benchmarks only: does the work of dcp with random gates and keeps a chosen share.",
    details: "\
Every vote of `dcp` is really computed, with random gates that never refuse, so that no vote ends early. What is kept \
is fixed beforehand and has nothing to do with the text: of the first n tokens, floor(n * keep) stay forever, evenly \
spaced; the others are gone for the query after their own. The output is meaningless; time and memory are those of a \
model that keeps that share.",
    source: "ours; for `dropcap bench --keep`",
    amount: None,
    ranks: Ranks::No,
    parameters: &[
        Parameter {
            name: "keep",
            kind: ParameterKind::Share,
            default: "0.2",
            help: "share of the tokens that stays",
        },
        Parameter {
            name: "width",
            kind: ParameterKind::Count { least: 1, most: MAX_GATE_WIDTH as u32 },
            default: "64",
            help: "gate width r",
        },
    ],
    check: |_| Ok(()),
    build: |arguments, facts| {
        let width = arguments.count("width")? as usize;
        Ok(Arc::new(simulate(arguments.share("keep")?, facts.layers, facts.hidden, width)?))
    },
};

/// Far above any score of finite hidden states, so that every vote says "keep" and none is cut short.
const NEVER_REFUSE: f32 = 1e30;

/// Keeps the share `keep` of all tokens (clamped to `0 ..= 1`) while voting with random gates of width r.
///
/// # Errors
/// A width outside `1 ..= MAX_GATE_WIDTH`, or gates too large for memory.
fn simulate(keep: f64, layers: usize, hidden: usize, width: usize) -> Result<Rules, MethodError> {
    let random = Gates::random(layers, hidden, width, 0)?;
    let mut layers = random.layers().to_vec();
    layers.iter_mut().for_each(|layer| layer.bias = vec![NEVER_REFUSE]);
    let gates = Gates::new(hidden, width, layers)?.votes()?;
    // The votes first: an entry that is gone already would be spared its vote.
    Ok(Rules::new(vec![
        Rule::new(Action::Vote { gates, decides: false }),
        Rule::new(Action::Share { keep: keep.clamp(0.0, 1.0) }),
    ]))
}

#[cfg(test)]
mod tests;
