//! Gates without training, for benchmarks and tests.

use super::{Gates, LayerGates};
use crate::MethodError;

impl Gates {
    /// Gates whose maps are uniform with variance 1/c, so that scores of unit-scale hidden states have a standard
    /// deviation of about 1, with a bias of 0: about half of all votes refuse. The same seed gives the same gates.
    ///
    /// # Errors
    /// A width outside `1 ..= MAX_GATE_WIDTH`.
    pub fn random(layers: usize, hidden: usize, width: usize, seed: u64) -> Result<Self, MethodError> {
        // Refused before anything of that width is made.
        Self::new(hidden, width, Vec::new())?;
        let mut state = seed;
        let reach = (3.0 / hidden.max(1) as f32).sqrt();
        let mut matrix = || (0..width * hidden).map(|_| reach * uniform(&mut state)).collect::<Vec<f32>>();
        let gates =
            (0..layers).map(|_| LayerGates { query: matrix(), key: matrix(), bias: vec![0.0] }).collect();
        Self::new(hidden, width, gates)
    }
}

/// The next number of SplitMix64 (Steele, Lea, Flood 2014), mapped to [-1, 1).
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    // The top 24 bits are exactly what an f32 in [1, 2) can tell apart.
    (bits >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}
