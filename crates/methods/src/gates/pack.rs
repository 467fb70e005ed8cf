//! From a file's gates to those of a rule.

use std::sync::Arc;

use dropcap_kernels::Team;
use dropcap_policy::{Action, BirthGates, RuleGates, VoteGates};

use super::{GateKind, Gates, LayerGates};
use crate::MethodError;

impl Gates {
    /// What the gates do as a rule does it, without their floors.
    ///
    /// # Errors
    /// Gates too large for memory.
    pub(crate) fn action(&self) -> Result<Action, MethodError> {
        Ok(match self.kind {
            GateKind::Votes => Action::Vote { gates: self.votes()?, decides: true },
            GateKind::Birth => {
                let gates = self.pack(BirthGates::new(self.heads), |layer| [&layer.key])?;
                Action::BirthGate { gates }
            }
        })
    }

    /// Gates that vote as a rule holds them, without their floors.
    ///
    /// # Errors
    /// Gates too large for memory, or without queries.
    pub(crate) fn votes(&self) -> Result<Arc<VoteGates>, MethodError> {
        self.pack(VoteGates::new(self.width, self.heads), |layer| [&layer.query, &layer.key])
    }

    /// The maps of all layers, added to gates that have none.
    fn pack<const MAPS: usize>(
        &self,
        mut packed: RuleGates<MAPS>,
        maps: impl Fn(&LayerGates) -> [&[f32]; MAPS],
    ) -> Result<Arc<RuleGates<MAPS>>, MethodError> {
        let team = Team::new(1)?;
        for layer in &self.layers {
            packed.push(&team, maps(layer), &layer.bias, self.hidden)?;
        }
        Ok(Arc::new(packed.settled_for(self.kv_dtype)))
    }
}
