//! Activations of one step on the device, allocated once for the largest step.

use dropcap_kernels::DType;
use dropcap_kernels::cuda::{CudaError, Device, DeviceBuffer};

use crate::DecoderConfig;

/// Activation buffers; W stands for the format of the weights.
#[derive(Debug)]
pub(super) struct DeviceScratch {
    /// Residual stream, f32 `[t, c]`.
    pub(super) residual: DeviceBuffer<f32>,
    /// Norm output, W `[t, c]`.
    pub(super) normed: DeviceBuffer<u8>,
    /// Norm output in f32 `[t, c]`, where gates read it.
    pub(super) normed_f32: Option<DeviceBuffer<f32>>,
    /// What the rounding of `normed` left, W `[t, c]`, where gates in parts read it.
    pub(super) normed_rest: Option<DeviceBuffer<u8>>,
    /// Gates of the new tokens, f32 `[t, 2 G r]`, or `[t, G]` where they score entries at birth.
    pub(super) gates: Option<DeviceBuffer<f32>>,
    /// Fused projections, W `[t, (h + 2g) d]`.
    pub(super) qkv: DeviceBuffer<u8>,
    /// Attention output, W `[t, h d]`.
    pub(super) mixed: DeviceBuffer<u8>,
    /// MLP hidden, W `[t, m]` or `[t, 2m]`.
    pub(super) up: DeviceBuffer<u8>,
    /// Gated MLP hidden, W `[t, m]`, for SwiGLU.
    pub(super) gated: Option<DeviceBuffer<u8>>,
    /// Rows whose logits are wanted, u32 `[l]`.
    pub(super) logit_rows: DeviceBuffer<u32>,
    /// The final norm of those rows, W `[l, c]`.
    pub(super) logit_inputs: DeviceBuffer<u8>,
    /// f32 `[l, v]`, each row padded to the outputs of the head.
    pub(super) logits: DeviceBuffer<f32>,
}

impl DeviceScratch {
    /// Room for `rows` tokens, of which `logit_rows` give logits, `logit_stride` numbers apart; `gate_width` is how many numbers
    /// gates make of a token, 0 without gates.
    pub(super) fn new(
        device: &Device,
        config: &DecoderConfig,
        dtype: DType,
        rows: usize,
        (logit_rows, logit_stride): (usize, usize),
        gate_width: usize,
    ) -> Result<Self, CudaError> {
        let weights =
            |width: usize| DeviceBuffer::uninitialized(device, "activations", rows * width * dtype.bytes());
        let floats = |width: usize| DeviceBuffer::uninitialized(device, "activations", rows * width);
        let gated = gate_width > 0;
        Ok(Self {
            residual: floats(config.hidden)?,
            normed: weights(config.hidden)?,
            normed_f32: gated.then(|| floats(config.hidden)).transpose()?,
            normed_rest: (gated && dtype == DType::Bf16).then(|| weights(config.hidden)).transpose()?,
            gates: gated.then(|| floats(gate_width)).transpose()?,
            qkv: weights(config.query_width() + 2 * config.key_width())?,
            mixed: weights(config.query_width())?,
            up: weights(config.up_width())?,
            gated: config.is_gated().then(|| weights(config.intermediate)).transpose()?,
            logit_rows: DeviceBuffer::zeroed(device, "activations", logit_rows)?,
            logit_inputs: DeviceBuffer::uninitialized(
                device,
                "activations",
                logit_rows * config.hidden * dtype.bytes(),
            )?,
            logits: DeviceBuffer::uninitialized(device, "logits", logit_rows * logit_stride)?,
        })
    }
}
