//! `simulate`: the learned method's work with a chosen outcome, for benchmarks.

use std::sync::Arc;

use dropcap_policy::{Action, EvictionPolicy, Lanes, Observation, PolicyError, Rule, SideChannel};

use crate::voting::VotingGates;
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
        Ok(Arc::new(Simulate::new(arguments.share("keep")?, facts.layers, facts.hidden, width)?))
    },
};

/// Far above any score of finite hidden states, so that every vote says "keep" and none is cut short.
const NEVER_REFUSE: f32 = 1e30;

/// The work of [`crate::Dcp`] with the outcome chosen beforehand.
#[derive(Debug)]
pub struct Simulate {
    gates: VotingGates,
    keep: f64,
}

impl Simulate {
    /// Keeps the share `keep` of all tokens (clamped to `0 ..= 1`) while voting with random gates of width r.
    ///
    /// # Errors
    /// A width outside `1 ..= MAX_GATE_WIDTH`, or gates too large for memory.
    pub fn new(keep: f64, layers: usize, hidden: usize, width: usize) -> Result<Self, MethodError> {
        let random = Gates::random(layers, hidden, width, 0)?;
        let mut gates = random.layers().to_vec();
        gates.iter_mut().for_each(|layer| layer.bias = vec![NEVER_REFUSE]);
        let gates = VotingGates::new(&Gates::new(hidden, width, gates)?)?;
        Ok(Self { gates, keep: keep.clamp(0.0, 1.0) })
    }

    /// Whether `floor(n * keep)` steps up at this position.
    fn stays(&self, position: u32) -> bool {
        let before = f64::from(position);
        ((before + 1.0) * self.keep).floor() > (before * self.keep).floor()
    }
}

impl EvictionPolicy for Simulate {
    fn side_channels(&self) -> Vec<SideChannel> {
        vec![SideChannel { name: "key gate", width: self.gates.width() }]
    }

    fn rules(&self) -> Option<Vec<Rule>> {
        Some(vec![Rule::new(Action::Share { keep: self.keep }), self.gates.rule(false)])
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [Lanes<'_>]) -> Result<(), PolicyError> {
        // Hidden states that are not finite could still make a vote refuse; only the work counts.
        drop(self.gates.vote(seen, lanes)?);
        for lanes in lanes {
            for group in 0..lanes.groups() {
                for entry in lanes.new_entries(group) {
                    let position = lanes.lane(group).positions()[entry];
                    if !self.stays(position) {
                        let next = position.saturating_add(1);
                        lanes.lower(group, entry, next, next);
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
