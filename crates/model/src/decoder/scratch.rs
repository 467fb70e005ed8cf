//! Activations of one step, kept between steps so that a decode step allocates nothing large.

use super::step::Step;
use crate::DecoderConfig;

/// Reusable activation buffers; grows to the largest step seen.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Residual stream `[t, c]`.
    pub(super) residual: Vec<f32>,
    /// The residual stream before an attention block, where a policy wants to know what the block changes.
    pub(super) before: Vec<f32>,
    /// Norm output `[t, c]`.
    pub(super) normed: Vec<f32>,
    /// Fused projections `[t, (h + 2g) d]`.
    pub(super) qkv: Vec<f32>,
    /// Attention output `[t, h d]`.
    pub(super) mixed: Vec<f32>,
    /// MLP hidden `[t, m]` or `[t, 2m]`.
    pub(super) up: Vec<f32>,
    /// Gated MLP hidden `[t, m]`, for SwiGLU.
    pub(super) gated: Vec<f32>,
    /// Absolute position of each row, u32 `[t]`.
    pub(super) positions: Vec<u32>,
}

impl Scratch {
    /// Sets every buffer to exactly the rows of a step, with their positions; other contents are unspecified.
    pub(super) fn begin(&mut self, step: &Step<'_, '_>, config: &DecoderConfig) {
        self.positions.clear();
        self.positions.extend(step.positions());
        let rows = self.positions.len();
        let heads = config.query_width();
        let fused = heads + 2 * config.key_width();
        self.residual.resize(rows * config.hidden, 0.0);
        self.normed.resize(rows * config.hidden, 0.0);
        self.qkv.resize(rows * fused, 0.0);
        self.mixed.resize(rows * heads, 0.0);
        self.up.resize(rows * config.up_width(), 0.0);
        if config.is_gated() {
            self.gated.resize(rows * config.intermediate, 0.0);
        }
    }
}
