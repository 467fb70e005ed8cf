//! What one call of `decide` may do to one lane.

use dropcap_cache::Lane;

use super::Violation;
use crate::{Floors, Span};

/// One lane as it was before the policy decided.
pub(super) struct Before {
    positions: Vec<u32>,
    expires_at: Vec<u32>,
}

impl Before {
    pub(super) fn of(lane: &Lane) -> Self {
        Self { positions: lane.positions().to_vec(), expires_at: lane.expires_at().to_vec() }
    }

    /// What stands in the channels around the policy's own for the new tokens: their positions.
    pub(super) fn marks(span: &Span) -> Vec<f32> {
        (0..span.queries).map(|query| (span.first_position as usize + query) as f32).collect()
    }

    /// Holds the lane after the decision against the lane before it.
    pub(super) fn check(&self, lane: &Lane, span: &Span, floors: Floors) -> Result<(), Violation> {
        let broken = |rule, entry: usize| {
            let (was, is) = (self.expires_at.get(entry), lane.expires_at().get(entry));
            let position = self.positions.get(entry);
            let detail = format!(
                "position {position:?}: expires_at was {was:?}, is {is:?}, first query {}",
                span.first_position
            );
            Err(Violation::Rule { rule, detail })
        };
        if lane.positions() != self.positions {
            return broken("a decision moves no entry", 0);
        }
        for (entry, (&was, &is)) in self.expires_at.iter().zip(lane.expires_at()).enumerate() {
            let position = self.positions[entry];
            if is > was {
                return broken("a lifetime never grows", entry);
            }
            if is < was && is <= position {
                return broken("no token kills itself", entry);
            }
            if is < was && is < span.first_position {
                return broken("no lifetime is lowered into the past", entry);
            }
            if is < floors.of(position) {
                return broken("sinks and recent tokens survive under protection", entry);
            }
        }
        self.check_marks(lane)
    }

    fn check_marks(&self, lane: &Lane) -> Result<(), Violation> {
        let last_channel = lane.view().layout.side_widths().len() - 1;
        for (entry, &position) in self.positions.iter().enumerate() {
            for channel in [0, last_channel] {
                let found = lane.read_side(entry, channel)?;
                if found != [position as f32] {
                    let rule = "a policy writes no side channel but its own";
                    let detail = format!("position {position}: channel {channel} holds {found:?}");
                    return Err(Violation::Rule { rule, detail });
                }
            }
        }
        Ok(())
    }
}
