//! What the gates of a layer make of a step's tokens.

use dropcap_kernels::matmul::{Epilogue, PackedMatrix, matmul};

use crate::{LaneEditor, Observation, PolicyError};

/// The gates of the layer that is being decided.
pub(super) fn of_layer<'a, L>(layers: &'a [L], seen: &Observation<'_>) -> Result<&'a L, PolicyError> {
    let (what, layer) = ("number of layers", seen.layer);
    layers.get(layer).ok_or(PolicyError::Mismatch { what, layer, expected: layers.len(), got: layer + 1 })
}

/// The product of the hidden states of all tokens of a step with the gates of `heads` gate heads, `[t, outputs]`.
pub(super) fn gate_rows(
    gates: &PackedMatrix,
    heads: usize,
    seen: &Observation<'_>,
    lanes: &[LaneEditor<'_>],
) -> Result<Vec<f32>, PolicyError> {
    let mismatch = |what, expected, got| PolicyError::Mismatch { what, layer: seen.layer, expected, got };
    if let Some(lanes) = lanes.iter().find(|lanes| heads > 1 && lanes.groups() != heads) {
        return Err(mismatch("gate heads", heads, lanes.groups()));
    }
    let tokens = seen.spans.iter().map(|span| span.first_row + span.queries).max().unwrap_or(0);
    let expected = tokens * gates.inputs();
    if seen.hidden.len() != expected {
        return Err(mismatch("numbers in the hidden states", expected, seen.hidden.len()));
    }
    let mut rows = vec![0.0; tokens * gates.outputs()];
    matmul(seen.team, seen.hidden, gates, None, Epilogue::Store, &mut rows)?;
    Ok(rows)
}

/// The gate head of a lane: its own, or the only one.
pub(super) fn head_of(group: usize, heads: usize) -> usize {
    if heads == 1 { 0 } else { group }
}
