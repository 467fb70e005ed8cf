//! The votes of gates in one layer and step.

use dropcap_kernels::matmul::{Epilogue, matmul};
use dropcap_kernels::vote::{VoteJob, first_refusals};

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
    let mismatch = |what, expected, got| PolicyError::Mismatch { what, layer: seen.layer, expected, got };
    let Some(layer) = gates.layers().get(seen.layer) else {
        return Err(mismatch("number of layers", gates.layers().len(), seen.layer + 1));
    };
    let (width, heads, hidden) = (gates.width(), gates.heads(), layer.both.inputs());
    let gate_row = heads * width;
    if let Some(lanes) = lanes.iter().find(|lanes| heads > 1 && lanes.groups() != heads) {
        return Err(mismatch("gate heads", heads, lanes.groups()));
    }
    let tokens = seen.spans.iter().map(|span| span.first_row + span.queries).max().unwrap_or(0);
    if seen.hidden.len() != tokens * hidden {
        return Err(mismatch("numbers in the hidden states", tokens * hidden, seen.hidden.len()));
    }
    let mut rows = vec![0.0; tokens * 2 * gate_row];
    matmul(seen.team, seen.hidden, &layer.both, None, Epilogue::Store, &mut rows)?;
    // A lane votes with its own head's gates, or with the only ones.
    let head_of = |group: usize| if heads == 1 { 0 } else { group };

    let mut ballots = Vec::with_capacity(lanes.len());
    for (index, (span, lanes)) in seen.spans.iter().zip(lanes.iter_mut()).enumerate() {
        for group in 0..lanes.groups() {
            let key_gates = &rows[(2 * span.first_row + 1) * gate_row + head_of(group) * width..];
            lanes.write_side(group, seen.first_channel, key_gates, 2 * gate_row)?;
            let refused_by = vec![u32::MAX; lanes.lane(group).len()];
            ballots.push(Ballot { span: index, group, refused_by });
        }
    }
    for (head, &bias) in layer.bias().iter().enumerate() {
        let rows = rows.chunks_exact(2 * gate_row);
        let query_gates: Vec<f32> = rows.flat_map(|row| &row[head * width..][..width]).copied().collect();
        let mut jobs: Vec<VoteJob<'_>> = Vec::with_capacity(ballots.len());
        for ballot in ballots.iter_mut().filter(|ballot| head_of(ballot.group) == head) {
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
