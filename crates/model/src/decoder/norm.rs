//! The two norms that decoders use, chosen by whether a bias and a mean are there.

use dropcap_kernels::{KernelError, Team, layer_norm, rms_norm};

/// The weights of one norm over the hidden width `[c]`.
#[derive(Debug, Clone)]
pub enum NormWeights {
    /// LayerNorm: subtracts the mean; has a bias.
    Layer {
        /// Scale `[c]`.
        weight: Vec<f32>,
        /// Shift `[c]`.
        bias: Vec<f32>,
        /// Added to the variance.
        epsilon: f32,
    },
    /// RMSNorm: scale only.
    Rms {
        /// Scale `[c]`.
        weight: Vec<f32>,
        /// Added to the mean square.
        epsilon: f32,
    },
}

impl NormWeights {
    /// Normalises each row of `x` `[t, c]` into `out` `[t, c]`.
    ///
    /// # Errors
    /// Lengths that are not multiples of `c` or differ from each other.
    pub fn apply(&self, team: &Team, x: &[f32], out: &mut [f32]) -> Result<(), KernelError> {
        match self {
            NormWeights::Layer { weight, bias, epsilon } => layer_norm(team, x, weight, bias, *epsilon, out),
            NormWeights::Rms { weight, epsilon } => rms_norm(team, x, weight, *epsilon, out),
        }
    }

    /// Bytes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            NormWeights::Layer { weight, bias, .. } => {
                size_of_val(weight.as_slice()) + size_of_val(bias.as_slice())
            }
            NormWeights::Rms { weight, .. } => size_of_val(weight.as_slice()),
        }
    }
}
