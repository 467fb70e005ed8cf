//! `dcp`: the learned method, dynamic context pruning.

use std::sync::Arc;

use dropcap_policy::{Action, EvictionPolicy, Floors, Rule, Rules};

use crate::method::Ranks;
use crate::{
    Arguments, GATES_FILE, Gates, MAX_COUNT, Method, MethodError, ModelFacts, Parameter, ParameterKind,
};

pub(crate) const METHOD: Method = Method {
    name: "dcp",
    summary: "Learned: every token votes on the earlier ones, and the first refusal drops a token for good.",
    details: "\
In each layer a later token n scores an earlier token j by raw = (W_q h_n) . (W_k h_j) / sqrt(r) + bias, where h is \
the input of the attention block. Token j lives, in that layer and for all its heads, until the first n with \
raw <= 0; that n does not see it any more. A token never drops itself. The gates were trained with the model, so how \
much is kept depends on the text and is not a setting.

Gates may also be one per KV head (ours, not the paper's): then each head forgets on its own. A gate file of ours \
names the floors that it was trained under, and they hold; sinks and recent can only raise them.

The key gate W_k h_j is stored with the entry, in the dtype of the cache; the gates themselves are f32.

Gates that were trained with `gates.rule: birth` (ours too, as in DMS and KVzap) let the token itself decide when its \
entry is made: raw = W_k h_j + bias, and an entry with raw <= 0 is seen by the recent tokens alone, whatever comes \
later. Their file says so; they store nothing with an entry and take one product with `[G, c]` for each layer.

Gates come from a file in the published layout (`transformer.h.{i}.attn.q_int.weight`, checked by its shapes) or in \
our own (docs/formats.md), which names the model that it was trained for.

With `propagate_in_depth`, an entry that died in a layer is dead in all layers above. The published training leaves \
this off, and so gates trained that way expect it off.

Costs: two products of the hidden states with `[r, c]` for each layer, one of every query gate with every live entry's key gate, \
and r numbers in the cache's format for each entry.",
    source: "Anagnostidis, Pavllo, Biggio, Noci, Lucchi, Hofmann, NeurIPS 2023, arXiv 2305.15805, section 3",
    amount: None,
    ranks: Ranks::No,
    parameters: &[
        Parameter {
            name: "gates",
            kind: ParameterKind::File,
            default: GATES_FILE,
            help: "the gate file; a relative path is looked for in the working directory, then in the model's folder",
        },
        Parameter {
            name: "propagate_in_depth",
            kind: ParameterKind::Flag,
            default: "false",
            help: "an entry dead in one layer is dead in all layers above",
        },
        Parameter {
            name: "sinks",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "0",
            help: "first tokens that are never dropped, if more than the gates were trained with",
        },
        Parameter {
            name: "recent",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "0",
            help: "newest tokens that are never dropped, the query included, if more than the gates were trained with; a refusal takes effect when the token leaves them",
        },
        Parameter {
            name: "fingerprint",
            kind: ParameterKind::Choice(&["check", "ignore"]),
            default: "check",
            help: "whether a gate file that names its model must name this one",
        },
    ],
    check: |_| Ok(()),
    build,
};

fn build(arguments: &Arguments<'_>, facts: &ModelFacts) -> Result<Arc<dyn EvictionPolicy>, MethodError> {
    let checked = arguments.text("fingerprint")? == "check";
    let model = facts.fingerprint.as_ref().filter(|_| checked);
    let path = facts.resolve(arguments.text("gates")?);
    let gates = Gates::load(&path, facts.layers, facts.kv_heads, facts.hidden, model)?;
    let asked = Floors { sinks: arguments.count("sinks")?, recent: arguments.count("recent")? };
    let floors = asked.and(gates.floors());
    Ok(Arc::new(dcp(&gates.under(floors), arguments.flag("propagate_in_depth")?)?))
}

/// Dynamic context pruning with hard gates (Anagnostidis et al. 2023, arXiv 2305.15805, section 3), under the floors of
/// the gates; or the same with gates that decide at birth ([`Action::BirthGate`]).
///
/// One side channel of the width r of gates that vote; lanes per KV head where the gates are per head.
///
/// # Errors
/// Gates too large for memory.
pub fn dcp(gates: &Gates, propagate_in_depth: bool) -> Result<Rules, MethodError> {
    let actions = [gates.action()?].into_iter().chain(propagate_in_depth.then_some(Action::Inherit));
    Ok(Rules::new(actions.map(|action| Rule::new(action).under(gates.floors())).collect()))
}

#[cfg(test)]
mod tests;
