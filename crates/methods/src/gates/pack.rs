//! From a file's gates to those of a rule.

use std::sync::Arc;

use dropcap_kernels::Team;
use dropcap_policy::VoteGates;

use super::Gates;
use crate::MethodError;

impl Gates {
    /// The gates as a rule holds them, without their floors.
    ///
    /// # Errors
    /// Gates too large for memory.
    pub(crate) fn pack(&self) -> Result<Arc<VoteGates>, MethodError> {
        let team = Team::new(1)?;
        let mut packed = VoteGates::new(self.width, self.heads);
        for layer in &self.layers {
            packed.push(&team, &layer.query, &layer.key, &layer.bias, self.hidden)?;
        }
        Ok(Arc::new(packed.settled_for(self.kv_dtype)))
    }
}
