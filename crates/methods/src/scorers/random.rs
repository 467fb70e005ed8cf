//! `random`: the baseline that every scorer should beat.

use super::{Noise, Place};

/// Uniform scores of the entries at `positions`, f32 `[n]`: a function of seed, layer, head and position alone.
///
/// kvpress `RandomPress`, which draws from torch's generator instead.
#[must_use]
pub fn random(seed: u64, layer: usize, head: usize, positions: &[u32]) -> Vec<f32> {
    let noise = Noise { seed };
    let score = |&entry: &u32| noise.uniform(Place { layer, head, query: 0, entry }) as f32;
    positions.iter().map(score).collect()
}
