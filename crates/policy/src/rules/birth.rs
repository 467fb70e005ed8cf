//! What gates decide about new entries.

use super::gate_rows::{gate_rows, head_of};
use crate::{BirthGates, LaneEditor, Observation, PolicyError};

/// Ends every new entry whose score is not positive at the query after its own. A score that is no number ends it too.
pub(super) fn judge(
    gates: &BirthGates,
    seen: &Observation<'_>,
    lanes: &mut [LaneEditor<'_>],
) -> Result<(), PolicyError> {
    let heads = gates.heads();
    let (rows, biases) = gate_rows(gates, seen, lanes)?;
    for (span, lanes) in seen.spans.iter().zip(lanes.iter_mut()) {
        let rows = &rows[span.first_row * heads..][..span.queries * heads];
        for group in 0..lanes.groups() {
            let head = head_of(group, heads);
            for (entry, row) in lanes.new_entries(group).zip(rows.chunks_exact(heads.max(1))) {
                let keep = row[head] + biases[head] > 0.0;
                if !keep {
                    let end = lanes.lane(group).positions()[entry].saturating_add(1);
                    lanes.lower(group, entry, end, end);
                }
            }
        }
    }
    Ok(())
}
