//! `knorm`: short keys are read much.

use super::attention::norm;

/// Minus the length of every key: `[n, d]` -> `[n]`. 2 n d operations, nothing else is read.
///
/// Devoto, Zhao, Scardapane, Minervini 2024, arXiv 2406.11430, section 3; kvpress `KnormPress`. A rotation does not change
/// lengths, so keys may come with or without it.
#[must_use]
pub fn knorm(keys: &[f32], width: usize) -> Vec<f32> {
    keys.chunks_exact(width.max(1)).map(|key| -norm(key)).collect()
}
