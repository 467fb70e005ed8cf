//! What a step on the device brings back.

use dropcap_kernels::lifetimes::{CacheOverflow, DeathRecord};

/// What a step computed, in the order of its segments.
#[derive(Debug, Clone, Default)]
pub struct DeviceOutcome {
    /// Per segment the sampled token, where one was wanted, or the index of its first logit that is not finite.
    pub tokens: Vec<Option<Result<u32, usize>>>,
    /// Per segment the state of its slot.
    pub states: Vec<SlotState>,
    /// What died, ordered by segment, layer, lane and position, where the decoder was made to tell.
    pub deaths: Vec<DeathRecord>,
}

impl DeviceOutcome {
    /// That of so many segments, before anything is known.
    pub(super) fn of(segments: usize) -> Self {
        Self {
            tokens: vec![None; segments],
            states: vec![SlotState::default(); segments],
            deaths: Vec::new(),
        }
    }
}

/// The cache of one sequence, all layers together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SlotState {
    /// Pages that one more token takes from the pool.
    pub wanted: usize,
    /// Pages held.
    pub pages: usize,
    /// Live entries.
    pub live: usize,
    /// The first number that its pages could not hold: what the sequence does from then on is wrong, whether or not its
    /// logits show it.
    pub overflow: Option<CacheOverflow>,
}
