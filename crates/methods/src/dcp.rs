//! `dcp`: the learned method, dynamic context pruning.

use std::sync::Arc;

use dropcap_cache::Death;
use dropcap_policy::{
    Action, EvictionPolicy, Floors, Granularity, Lanes, Observation, PolicyError, Protected, Rule,
    SideChannel,
};

use crate::voting::VotingGates;
use crate::{Arguments, Gates, MAX_COUNT, Method, MethodError, ModelFacts, Parameter, ParameterKind};

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

Gates come from a file in the published layout (`transformer.h.{i}.attn.q_int.weight`, checked by its shapes) or in \
our own (docs/formats.md), which names the model that it was trained for.

With `propagate_in_depth`, an entry that died in a layer is dead in all layers above. The published training leaves \
this off, and so gates trained that way expect it off.",
    source: "Anagnostidis, Pavllo, Biggio, Noci, Lucchi, Hofmann, NeurIPS 2023, arXiv 2305.15805, section 3",
    amount: None,
    parameters: &[
        Parameter {
            name: "gates",
            kind: ParameterKind::File,
            default: "pruning.safetensors",
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
    let model = (arguments.text("fingerprint")? == "check").then_some(&facts.fingerprint);
    let path = facts.resolve(arguments.text("gates")?);
    let gates = Gates::load(&path, facts.layers, facts.kv_heads, facts.hidden, model)?;
    let policy = Dcp::new(&gates, arguments.flag("propagate_in_depth")?)?;
    let asked = Floors { sinks: arguments.count("sinks")?, recent: arguments.count("recent")? };
    let Floors { sinks, recent } = asked.and(gates.floors());
    if sinks == 0 && recent <= 1 {
        return Ok(Arc::new(policy));
    }
    Ok(Arc::new(Protected::new(policy, sinks, recent)))
}

/// Dynamic context pruning with hard gates (Anagnostidis et al. 2023, arXiv 2305.15805, section 3).
#[derive(Debug)]
pub struct Dcp {
    gates: VotingGates,
    propagate_in_depth: bool,
}

impl Dcp {
    /// The policy of these gates, without their floors. One side channel of the gates' width r; lanes per KV head
    /// where the gates are per head.
    ///
    /// # Errors
    /// Gates too large for memory.
    pub fn new(gates: &Gates, propagate_in_depth: bool) -> Result<Self, MethodError> {
        Ok(Self { gates: VotingGates::new(gates)?, propagate_in_depth })
    }
}

impl EvictionPolicy for Dcp {
    fn granularity(&self) -> Granularity {
        self.gates.granularity()
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        vec![SideChannel { name: "key gate", width: self.gates.width() }]
    }

    /// With a gate per head, dead in the layer below means dead in all its lanes: that exists only as code.
    fn rules(&self) -> Option<Vec<Rule>> {
        let mut rules = vec![self.gates.rule(true)];
        if self.propagate_in_depth {
            if self.granularity() == Granularity::KvHead {
                return None;
            }
            rules.push(Rule::new(Action::Inherit));
        }
        Some(rules)
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [Lanes<'_>]) -> Result<(), PolicyError> {
        for ballot in self.gates.vote(seen, lanes)? {
            let lanes = &mut lanes[ballot.span];
            for (entry, &query) in ballot.refused_by.iter().enumerate() {
                if query != u32::MAX {
                    lanes.lower(ballot.group, entry, query, query);
                }
            }
        }
        if self.propagate_in_depth {
            for (died, lanes) in seen.died_below.iter().zip(lanes) {
                propagate(died, lanes);
            }
        }
        Ok(())
    }
}

/// Ends the entries of the tokens in `died` when they ended in the layer below.
fn propagate(died: &[Death], lanes: &mut Lanes<'_>) {
    if died.is_empty() {
        return;
    }
    let mut by_position: Vec<&Death> = died.iter().collect();
    by_position.sort_unstable_by_key(|death| death.position);
    for group in 0..lanes.groups() {
        for entry in 0..lanes.lane(group).len() {
            let position = lanes.lane(group).positions()[entry];
            if let Ok(found) = by_position.binary_search_by_key(&position, |death| death.position) {
                let death = by_position[found];
                lanes.lower(group, entry, death.expires_at, death.killer);
            }
        }
    }
}

#[cfg(test)]
mod tests;
