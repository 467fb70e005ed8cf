//! What one call of `decide` or `after` may do to one lane.

use std::ops::Range;

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

    /// Marks the statistics around the policy's own for new entries.
    pub(super) fn mark(lane: &mut Lane, new: Range<usize>) {
        let width = lane.statistics().len() / lane.len().max(1);
        for entry in new {
            let mark = lane.positions()[entry] as f32;
            let row = &mut lane.statistics_mut()[entry * width..][..width];
            (row[0], row[width - 1]) = (mark, mark);
        }
    }

    /// Holds the lane after the decision against the lane before it; `first_query` is the first that may still be told.
    pub(super) fn check(&self, lane: &Lane, first_query: u32, floors: Floors) -> Result<(), Violation> {
        let broken = |rule, entry: usize| {
            let (was, is) = (self.expires_at.get(entry), lane.expires_at().get(entry));
            let position = self.positions.get(entry);
            let detail = format!(
                "position {position:?}: expires_at was {was:?}, is {is:?}, first query {first_query}"
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
            if is < was && is < first_query {
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
        let width = lane.statistics().len() / lane.len().max(1);
        for (entry, &position) in self.positions.iter().enumerate() {
            let statistics = &lane.statistics()[entry * width..][..width];
            if [statistics[0], statistics[width - 1]] != [position as f32; 2] {
                let rule = "a policy writes no statistic but its own";
                let detail = format!("position {position}: its row is {statistics:?}");
                return Err(Violation::Rule { rule, detail });
            }
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
