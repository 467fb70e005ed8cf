//! Attention of a layer and the gates that decide for it.

use dropcap_kernels::KernelError;
use dropcap_kernels::gated_attention::{
    Attended, AttendedBack, DevicePressure, DeviceRule, DeviceVoter, DeviceVoterGradient, GateScratch,
    GatedShape, TrainAttention,
};

/// One layer's attention as its kernels take it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) shape: &'a GatedShape,
    pub(super) rule: DeviceRule<'a>,
    /// The layer's gates, where they vote.
    pub(super) voter: Option<DeviceVoter<'a>>,
    pub(super) layer: Attended<'a>,
    pub(super) scratch: Option<&'a GateScratch>,
}

impl Call<'_> {
    pub(super) fn forward(&self, kernels: &TrainAttention) -> Result<(), KernelError> {
        kernels.forward(self.shape, self.rule, self.voter.as_slice(), self.layer, self.scratch)
    }

    /// From what [`Call::forward`] wrote.
    pub(super) fn backward(
        &self,
        kernels: &TrainAttention,
        pressure: DevicePressure<'_>,
        back: AttendedBack<'_>,
        gates: Option<DeviceVoterGradient<'_>>,
    ) -> Result<(), KernelError> {
        let (shape, rule, layer) = (self.shape, self.rule, self.layer);
        let (voters, gradients) = (self.voter.as_slice(), gates.as_slice());
        kernels.backward(shape, rule, voters, layer, pressure, back, gradients, self.scratch)
    }
}
