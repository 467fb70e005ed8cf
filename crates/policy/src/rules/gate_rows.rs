//! What the gates of a layer make of a step's tokens.

use dropcap_kernels::matmul::{Epilogue, matmul};

use crate::{LaneEditor, Observation, PolicyError, RuleGates};

/// What the gates of the layer that is being decided make of all tokens of a step, `[t, maps G r]`, and their biases `[G]`.
pub(super) fn gate_rows<'a, const MAPS: usize>(
    gates: &'a RuleGates<MAPS>,
    seen: &Observation<'_>,
    lanes: &[LaneEditor<'_>],
) -> Result<(Vec<f32>, &'a [f32]), PolicyError> {
    let mismatch = |what, expected, got| PolicyError::Mismatch { what, layer: seen.layer, expected, got };
    let (layers, heads) = (gates.layers(), gates.heads());
    let layer = layers.get(seen.layer).ok_or(mismatch("number of layers", layers.len(), seen.layer + 1))?;
    if let Some(lanes) = lanes.iter().find(|lanes| heads > 1 && lanes.groups() != heads) {
        return Err(mismatch("gate heads", heads, lanes.groups()));
    }
    let tokens = seen.spans.iter().map(|span| span.first_row + span.queries).max().unwrap_or(0);
    let expected = tokens * layer.weights.inputs();
    if seen.hidden.len() != expected {
        return Err(mismatch("numbers in the hidden states", expected, seen.hidden.len()));
    }
    let mut rows = vec![0.0; tokens * layer.weights.outputs()];
    matmul(seen.team, seen.hidden, &layer.weights, None, Epilogue::Store, &mut rows)?;
    Ok((rows, layer.bias()))
}

/// The gate head of a lane: its own, or the only one.
pub(super) fn head_of(group: usize, heads: usize) -> usize {
    if heads == 1 { 0 } else { group }
}
