//! The numbers of a scene's tokens: functions of the token alone, never of the step that it came in.

use super::Scene;

/// Width of the scene's heads.
pub(super) const HEAD_DIM: usize = 4;
/// Query heads per KV head.
pub(super) const GROUP: usize = 2;

impl Scene {
    /// The made-up hidden state `[c]` of one token, uniform in [-1, 1).
    #[must_use]
    pub fn hidden_state(&self, sequence: usize, layer: usize, position: usize) -> Vec<f32> {
        (0..self.hidden)
            .map(|dimension| uniform(mix(self.seed, &[sequence, layer, position, dimension])))
            .collect()
    }

    /// The made-up key and value of one token for all KV heads, `[g, d]` each, uniform in [-2, 2).
    pub(super) fn key_and_value(&self, sequence: usize, layer: usize, position: usize) -> [Vec<f32>; 2] {
        [1, 2].map(|what| self.row(what, self.kv_heads, sequence, layer, position))
    }

    /// The made-up queries of one token, `[g, group, d]`, uniform in [-2, 2).
    pub(super) fn queries(&self, sequence: usize, layer: usize, position: usize) -> Vec<f32> {
        self.row(3, GROUP * self.kv_heads, sequence, layer, position)
    }

    /// How little each layer changes a sequence, `[L]`, in [-1, 1).
    pub(super) fn similarities(&self, sequence: usize) -> Vec<f64> {
        (0..self.layers).map(|layer| f64::from(uniform(mix(self.seed ^ 4, &[sequence, layer])))).collect()
    }

    fn row(&self, what: usize, heads: usize, sequence: usize, layer: usize, position: usize) -> Vec<f32> {
        let number =
            |index| 2.0 * uniform(mix(self.seed ^ what as u64, &[what, sequence, layer, position, index]));
        (0..heads * HEAD_DIM).map(number).collect()
    }
}

/// In [-1, 1).
fn uniform(bits: u64) -> f32 {
    (bits >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}

/// A hash of the seed and the indices: SplitMix64's finaliser, folded over them.
pub(super) fn mix(seed: u64, indices: &[usize]) -> u64 {
    indices.iter().fold(seed, |state, &index| {
        let mut bits = state.wrapping_add(index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    })
}
