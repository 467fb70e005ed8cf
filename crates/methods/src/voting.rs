//! The votes of gates: what the learned method and its benchmark double compute in every layer and step.

use dropcap_kernels::matmul::{Epilogue, Orientation, PackedMatrix, Part, TensorBytes, matmul};
use dropcap_kernels::vote::{VoteJob, first_refusals};
use dropcap_kernels::{DType, Team};
use dropcap_policy::{Action, GateRows, Granularity, Lanes, Observation, PolicyError, Rule, VoteRule};

use crate::{Gates, MethodError};

/// The gates of all layers, packed for this machine.
#[derive(Debug)]
pub(crate) struct VotingGates {
    width: usize,
    heads: usize,
    layers: Vec<VotingLayer>,
}

#[derive(Debug)]
struct VotingLayer {
    /// W_q above W_k, `[2 G r, c]`: one product gives all gates of a token.
    both: PackedMatrix,
    bias: Vec<f32>,
}

/// The votes cast in one lane during one step.
#[derive(Debug)]
pub(crate) struct Ballot {
    /// Index of the sequence among the spans.
    pub(crate) span: usize,
    /// Index of the lane within the layer.
    pub(crate) group: usize,
    /// Per entry the first query of this step that refuses it, or `u32::MAX`.
    pub(crate) refused_by: Vec<u32>,
}

impl VotingGates {
    pub(crate) fn new(gates: &Gates) -> Result<Self, MethodError> {
        let team = Team::new(1)?;
        let pack = |layer: &crate::LayerGates| {
            let parts =
                [&layer.query, &layer.key].map(|matrix| rows_of(matrix, gates.heads() * gates.width()));
            let both = PackedMatrix::pack(&team, &parts, gates.hidden(), DType::F32)?;
            Ok(VotingLayer { both, bias: layer.bias.clone() })
        };
        let layers = gates.layers().iter().map(pack).collect::<Result<_, MethodError>>()?;
        Ok(Self { width: gates.width(), heads: gates.heads(), layers })
    }

    /// Gate width r of each gate head.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// One gate for all KV heads needs no lane of their own for them.
    pub(crate) fn granularity(&self) -> Granularity {
        if self.heads == 1 { Granularity::Layer } else { Granularity::KvHead }
    }

    /// The vote as data; `decides` says whether a refusal ends an entry.
    pub(crate) fn rule(&self, decides: bool) -> Rule {
        let rows = |layer: &VotingLayer| {
            let inputs = layer.both.inputs();
            let mut both = vec![0.0; layer.both.outputs() * inputs];
            both.chunks_exact_mut(inputs).enumerate().for_each(|(output, row)| layer.both.row(output, row));
            GateRows { both, bias: layer.bias.clone() }
        };
        let layers = self.layers.iter().map(rows).collect();
        Rule::new(Action::Vote(VoteRule { width: self.width, heads: self.heads, layers, decides }))
    }

    /// Computes the gates of all new tokens, stores their key gates with their entries, and lets every new token
    /// vote on every live entry before it: one ballot per sequence and lane.
    pub(crate) fn vote(
        &self,
        seen: &Observation<'_>,
        lanes: &mut [Lanes<'_>],
    ) -> Result<Vec<Ballot>, PolicyError> {
        let mismatch = |what, expected, got| PolicyError::Mismatch { what, layer: seen.layer, expected, got };
        let Some(layer) = self.layers.get(seen.layer) else {
            return Err(mismatch("number of layers", self.layers.len(), seen.layer + 1));
        };
        let (width, hidden) = (self.width, layer.both.inputs());
        let gate_row = self.heads * width;
        if let Some(lanes) = lanes.iter().find(|lanes| self.heads > 1 && lanes.groups() != self.heads) {
            return Err(mismatch("gate heads", self.heads, lanes.groups()));
        }
        let tokens = seen.spans.iter().map(|span| span.first_row + span.queries).max().unwrap_or(0);
        if seen.hidden.len() != tokens * hidden {
            return Err(mismatch("numbers in the hidden states", tokens * hidden, seen.hidden.len()));
        }
        let mut gates = vec![0.0; tokens * 2 * gate_row];
        matmul(seen.team, seen.hidden, &layer.both, None, Epilogue::Store, &mut gates)?;
        // A lane votes with its own head's gates, or with the only ones.
        let head_of = |group: usize| if self.heads == 1 { 0 } else { group };

        let mut ballots = Vec::with_capacity(lanes.len());
        for (index, (span, lanes)) in seen.spans.iter().zip(lanes.iter_mut()).enumerate() {
            for group in 0..lanes.groups() {
                let key_gates = &gates[(2 * span.first_row + 1) * gate_row + head_of(group) * width..];
                lanes.write_side(group, seen.first_channel, key_gates, 2 * gate_row)?;
                let refused_by = vec![u32::MAX; lanes.lane(group).len()];
                ballots.push(Ballot { span: index, group, refused_by });
            }
        }
        for (head, &bias) in layer.bias.iter().enumerate() {
            let rows = gates.chunks_exact(2 * gate_row);
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
}

/// A row-major f32 matrix `[outputs, c]`, to be packed.
fn rows_of(matrix: &[f32], outputs: usize) -> Part<'_> {
    let source = TensorBytes { dtype: DType::F32, bytes: bytemuck::cast_slice(matrix) };
    Part { source, orientation: Orientation::OutputsByInputs, outputs }
}
