//! The policy that forgets nothing.

use crate::{EvictionPolicy, Lanes, Observation, PolicyError, Rule};

/// Keeps every entry forever: dense attention, bit for bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepAll;

impl EvictionPolicy for KeepAll {
    fn rules(&self) -> Option<Vec<Rule>> {
        Some(Vec::new())
    }

    fn decide(&self, _seen: &Observation<'_>, _lanes: &mut [Lanes<'_>]) -> Result<(), PolicyError> {
        Ok(())
    }
}
