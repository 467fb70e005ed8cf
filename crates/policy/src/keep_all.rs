//! The policy that forgets nothing.

use crate::{EvictionPolicy, LaneEditor, Observation, Peak, PolicyError, Rule, TextSize};

/// Keeps every entry forever: dense attention, bit for bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeepAll;

impl EvictionPolicy for KeepAll {
    fn rules(&self) -> Option<&[Rule]> {
        Some(&[])
    }

    fn peak(&self, text: TextSize) -> Peak {
        Peak::exactly(text.tokens)
    }

    fn decide(&self, _seen: &Observation<'_>, _lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        Ok(())
    }
}
