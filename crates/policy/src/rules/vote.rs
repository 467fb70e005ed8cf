//! The votes of gates in one layer and step.

use dropcap_kernels::vote::{VoteJob, first_refusals};

use super::gate_rows::{gate_rows, head_of};
use crate::{LaneEditor, Observation, PolicyError, VoteGates};

/// The votes cast in one lane during one step.
struct Ballot {
    /// Index of the sequence among the spans.
    span: usize,
    /// Index of the lane within the layer.
    group: usize,
    /// Per entry the first query of this step that refuses it, or `u32::MAX`.
    refused_by: Vec<u32>,
}

/// Computes the gates of all new tokens, stores their key gates with their entries, and lets every new token
/// vote on every live entry before it; if the vote decides, the first refusal ends an entry.
pub(super) fn vote(
    gates: &VoteGates,
    decides: bool,
    seen: &Observation<'_>,
    lanes: &mut [LaneEditor<'_>],
) -> Result<(), PolicyError> {
    let ballots = ballots(gates, seen, lanes)?;
    // Hidden states that are not finite make a vote refuse even where none should; without `decides` only the work
    // counts.
    for ballot in ballots.iter().filter(|_| decides) {
        for (entry, &query) in ballot.refused_by.iter().enumerate() {
            if query != u32::MAX {
                lanes[ballot.span].lower(ballot.group, entry, query, query);
            }
        }
    }
    Ok(())
}

/// One ballot per sequence and lane.
fn ballots(
    gates: &VoteGates,
    seen: &Observation<'_>,
    lanes: &mut [LaneEditor<'_>],
) -> Result<Vec<Ballot>, PolicyError> {
    let (width, heads) = (gates.width(), gates.heads());
    let gate_row = heads * width;
    let (rows, biases) = gate_rows(gates, seen, lanes)?;

    let mut ballots = Vec::with_capacity(lanes.len());
    for (index, (span, lanes)) in seen.spans.iter().zip(lanes.iter_mut()).enumerate() {
        for group in 0..lanes.groups() {
            let key_gates = &rows[(2 * span.first_row + 1) * gate_row + head_of(group, heads) * width..];
            lanes.write_side(group, seen.first_channel, key_gates, 2 * gate_row)?;
            let refused_by = vec![u32::MAX; lanes.lane(group).len()];
            ballots.push(Ballot { span: index, group, refused_by });
        }
    }
    for (head, &bias) in biases.iter().enumerate() {
        let rows = rows.chunks_exact(2 * gate_row);
        let query_gates: Vec<f32> = rows.flat_map(|row| &row[head * width..][..width]).copied().collect();
        let mut jobs: Vec<VoteJob<'_>> = Vec::with_capacity(ballots.len());
        for ballot in ballots.iter_mut().filter(|ballot| head_of(ballot.group, heads) == head) {
            let span = &seen.spans[ballot.span];
            jobs.push(VoteJob {
                first_row: span.first_row,
                queries: span.queries,
                first_position: span.first_position,
                lane: lanes[ballot.span].lane(ballot.group).view(),
                channel: seen.first_channel,
                refused_by: &mut ballot.refused_by,
            });
        }
        first_refusals(seen.team, &query_gates, bias, &mut jobs)?;
    }
    Ok(ballots)
}
