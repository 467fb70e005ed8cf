//! How attention forgets during one pass.

use dropcap_kernels::AlphaSigmoid;
use dropcap_policy::Floors;

/// How attention forgets during one pass.
#[derive(Debug, Clone, Copy)]
pub enum Pruning<'a> {
    /// Not at all: the dense model.
    Dense,
    /// Every layer sees only what the floors keep.
    Windows {
        /// The floors of each layer.
        floors: &'a [Floors],
    },
    /// Every KV head mixes what it finds within its window with what a dense pass over the same tokens found there, by its share:
    /// how DuoAttention learns which heads need their whole past (arXiv 2410.10819, section 2.2). On the processor.
    Mixed {
        /// The windows of each layer.
        floors: &'a [Floors],
        /// How much of the dense pass counts, `[L g]`; below 0 is 0, and above 1 is 1.
        shares: &'a [f32],
        /// Attention's output in each layer of the dense pass, `[L][t, h d]`.
        full: &'a [Vec<f32>],
    },
    /// The published soft gates (arXiv 2305.15805, section 3).
    Soft {
        /// The votes' sigmoid at this step.
        curve: &'a AlphaSigmoid,
        /// Whether what dies in a layer is dead in those above (`propagate_in_depth`).
        in_depth: bool,
        /// What no vote touches.
        floors: Floors,
    },
    /// The rule of inference, with gradients through its running minimum.
    Hard {
        /// What no vote touches.
        floors: Floors,
        /// Subtracted from the biases of each layer, `[layers]`; empty for none.
        shifts: &'a [f32],
        /// Random thresholds.
        noise: Option<Noise>,
    },
}

/// Logistic noise on every key's threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// Scale of the logistic distribution.
    pub scale: f32,
    /// Decides, with the layer, the sequence, the gate head and the key, what is drawn.
    pub seed: u64,
}

impl Noise {
    /// What a layer's draws are made of, each with its place.
    pub(crate) fn base(self, layer: usize) -> u64 {
        mix(self.seed ^ mix(layer as u64 + 1))
    }

    /// Fills `out` `[b, G, T]` for one layer: a pure function of the seed and the place, so that a layer that is
    /// computed twice sees the same thresholds.
    pub(super) fn fill(self, layer: usize, out: &mut [f32]) {
        let base = self.base(layer);
        for (index, out) in out.iter_mut().enumerate() {
            // In (0, 1), both ends excluded.
            let uniform = ((mix(base ^ index as u64) >> 40) as f32 + 0.5) / (1_u64 << 24) as f32;
            *out = self.scale * (uniform / (1.0 - uniform)).ln();
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_logistic_and_depends_on_its_place_alone() {
        let noise = Noise { scale: 2.0, seed: 7 };
        let (mut a, mut b, mut other) = (vec![0.0; 40_000], vec![0.0; 40_000], vec![0.0; 40_000]);
        noise.fill(0, &mut a);
        noise.fill(0, &mut b);
        noise.fill(1, &mut other);
        assert_eq!(a, b);
        assert_ne!(a, other);
        let mean = a.iter().map(|&x| f64::from(x)).sum::<f64>() / a.len() as f64;
        let variance = a.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / a.len() as f64 - mean * mean;
        // A logistic distribution of scale s has variance (pi s)^2 / 3.
        let expected = (std::f64::consts::PI * 2.0).powi(2) / 3.0;
        assert!(mean.abs() < 0.1 && (variance / expected - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
