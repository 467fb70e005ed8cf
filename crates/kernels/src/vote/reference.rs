//! Votes as they are defined, in f64: the oracle of the tests.

use crate::{LaneView, PAGE_ENTRIES};

/// The raw vote of one query gate on every entry of the lane.
pub(super) fn raw_votes(lane: &LaneView<'_>, channel: usize, gate: &[f32], bias: f32) -> Vec<f64> {
    (0..lane.len())
        .map(|e| {
            let key = lane.layout.read_side(lane.pages[e / PAGE_ENTRIES], e % PAGE_ENTRIES, channel).unwrap();
            let dot: f64 = gate.iter().zip(key).map(|(&q, k)| f64::from(q) * f64::from(k)).sum();
            dot / (gate.len() as f64).sqrt() + f64::from(bias)
        })
        .collect()
}
