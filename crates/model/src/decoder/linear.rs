//! A linear map with packed weights.

use dropcap_kernels::{Epilogue, KernelError, PackedMatrix, Team, matmul};

/// `y = x W^T + bias`, with `W` packed once at load.
#[derive(Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: PackedMatrix,
    /// `[outputs]`, for families that have one.
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    /// Applies the map to `x` `[t, inputs]` and writes or adds `[t, outputs]` to `out` as `epilogue` says.
    ///
    /// # Errors
    /// Lengths of `x` or `out` that are not the same number of rows.
    pub fn apply(
        &self,
        team: &Team,
        x: &[f32],
        epilogue: Epilogue,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        matmul(team, x, &self.weight, self.bias.as_deref(), epilogue, out)
    }

    /// Bytes of weight and bias in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, |bias| size_of_val(bias.as_slice()))
    }
}
