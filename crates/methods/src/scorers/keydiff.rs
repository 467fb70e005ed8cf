//! `keydiff`: keys that point where the others point can go.

use super::attention::{dot, norm};

/// Minus the cosine between each key and the mean direction of all, `[n, d]` -> `[n]`; 5 n d operations.
///
/// Park, Jones, Morse, Goel, Lee, Lott 2025, arXiv 2504.15364, section 3; kvpress `KeyDiffPress`: the mean is over normalised
/// keys. Rotated keys, as they lie in the cache. The paper prunes block by block while a prompt goes in; this is one look.
#[must_use]
pub fn keydiff(keys: &[f32], width: usize) -> Vec<f32> {
    // torch's floors: `normalize` and `cosine_similarity`.
    const DIRECTION: f32 = 1e-12;
    const COSINE: f32 = 1e-8;
    let width = width.max(1);
    let n = keys.len() / width;
    let mut sums = vec![0.0_f64; width];
    for key in keys.chunks_exact(width) {
        let length = norm(key).max(DIRECTION);
        sums.iter_mut().zip(key).for_each(|(sum, &number)| *sum += f64::from(number / length));
    }
    let anchor: Vec<f32> = sums.iter().map(|sum| (sum / n.max(1) as f64) as f32).collect();
    let length = norm(&anchor).max(COSINE);
    keys.chunks_exact(width).map(|key| -dot(key, &anchor) / (norm(key).max(COSINE) * length)).collect()
}
