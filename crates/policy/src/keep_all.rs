//! The policy that forgets nothing.

use crate::{EvictionPolicy, LaneEditor, Observation, Peak, PolicyError, Rule};

/// Keeps every entry forever: dense attention, bit for bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepAll;

impl EvictionPolicy for KeepAll {
    fn rules(&self) -> Option<&[Rule]> {
        Some(&[])
    }

    fn peak(&self, _prompt: usize, tokens: usize) -> Peak {
        Peak::exactly(tokens)
    }

    fn decide(&self, _seen: &Observation<'_>, _lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        Ok(())
    }
}
