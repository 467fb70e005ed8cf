//! From a file's gates to those of a rule.

use std::sync::Arc;

use dropcap_kernels::Team;
use dropcap_policy::{Action, BirthGates, VoteGates};

use super::{GateKind, Gates};
use crate::MethodError;

impl Gates {
    /// What the gates do as a rule does it, without their floors.
    ///
    /// # Errors
    /// Gates too large for memory.
    pub(crate) fn action(&self) -> Result<Action, MethodError> {
        Ok(match self.kind {
            GateKind::Votes => Action::Vote { gates: self.pack()?, decides: true },
            GateKind::Birth => {
                let team = Team::new(1)?;
                let mut packed = BirthGates::new(self.heads);
                for layer in &self.layers {
                    packed.push(&team, &layer.key, &layer.bias, self.hidden)?;
                }
                Action::BirthGate { gates: Arc::new(packed.settled_for(self.kv_dtype)) }
            }
        })
    }

    /// Gates that vote as a rule holds them, without their floors.
    ///
    /// # Errors
    /// Gates too large for memory, or without queries.
    pub(crate) fn pack(&self) -> Result<Arc<VoteGates>, MethodError> {
        let team = Team::new(1)?;
        let mut packed = VoteGates::new(self.width, self.heads);
        for layer in &self.layers {
            packed.push(&team, &layer.query, &layer.key, &layer.bias, self.hidden)?;
        }
        Ok(Arc::new(packed.settled_for(self.kv_dtype)))
    }
}
