//! Memory for the numbers of a pass.

use dropcap_kernels::cuda::DeviceBuffer;
use dropcap_kernels::gated_attention::{GateScratch, GateTrail, GatedShape};
use dropcap_kernels::norm::TrainNorm;
use dropcap_kernels::reduce::DeviceSums;
use dropcap_kernels::rope::TrainTurn;
use dropcap_kernels::{DType, KernelError};

use super::kernels::Kernels;
use super::network::Network;
use super::weights::HEAD_ROWS;
use crate::network::GateForm;

/// Rows whose logits exist at a time.
pub(super) const SLICE: usize = 2048;

/// Everything that a pass over b sequences of T tokens (t = b T rows) writes and the way back reads; W is the format of
/// products.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) sequences: usize,
    pub(super) tokens: usize,
    pub(super) recompute: bool,
    /// The residual stream before each layer, and after the last: `[layers + 1]`, f32 `[t, c]`.
    pub(super) residual: Vec<DeviceBuffer<f32>>,
    /// One per layer, or the one that is in use.
    pub(super) layers: Vec<LayerRoom>,
    /// What the rounding of the gates' input left over, bf16 `[t, c]`.
    pub(super) rest: Option<DeviceBuffer<u8>>,
    /// After the final norm, W `[t, c]`, and the norm's statistics.
    pub(super) normed: DeviceBuffer<u8>,
    pub(super) final_stats: DeviceBuffer<f32>,
    /// f32 `[2048, stride]`.
    pub(super) logits: DeviceBuffer<f32>,
    /// The same two of a teacher.
    pub(super) taught: Option<Teaching>,
    /// Columns of a row of logits in memory.
    pub(super) stride: usize,
    /// Of gates under the hard rule, and under the soft one once a pass asked for it.
    pub(super) hard: Option<GateScratch>,
    pub(super) soft: Option<GateScratch>,
    /// Thresholds' noise, f32 `[b, G, T]`.
    pub(super) noise: DeviceBuffer<f32>,
    pub(super) back: BackRoom,
}

/// What a teacher makes of the tokens of a pass.
#[derive(Debug)]
pub(super) struct Teaching {
    /// After its final norm, W `[t, c]`.
    pub(super) output: DeviceBuffer<u8>,
    /// f32 `[2048, stride]`.
    pub(super) logits: DeviceBuffer<f32>,
}

/// One layer's intermediate numbers.
#[derive(Debug)]
pub(super) struct LayerRoom {
    /// f32 `[t, 2]`.
    pub(super) attention_stats: DeviceBuffer<f32>,
    /// After the attention norm, W `[t, c]`.
    pub(super) attention_input: DeviceBuffer<u8>,
    /// `[q | k | v]` before their norms, W; for families without them nothing.
    pub(super) raw: Option<DeviceBuffer<u8>>,
    /// As attention uses them, W `[t, (h + 2g) d]`.
    pub(super) qkv: DeviceBuffer<u8>,
    /// Attention's output, W `[t, h d]`.
    pub(super) mixed: DeviceBuffer<u8>,
    /// f32 `[b, h, T]`.
    pub(super) lse: DeviceBuffer<f32>,
    /// The residual stream after attention, f32 `[t, c]`.
    pub(super) middle: DeviceBuffer<f32>,
    pub(super) mlp_stats: DeviceBuffer<f32>,
    /// After the MLP norm, W `[t, c]`.
    pub(super) mlp_input: DeviceBuffer<u8>,
    /// The MLP's first product, W `[t, m]` or `[t, 2m]`.
    pub(super) up: DeviceBuffer<u8>,
    /// After the activation, W `[t, m]`.
    pub(super) active: DeviceBuffer<u8>,
    /// Gates, f32 `[t, 2 G r]`, of queries and of keys; those of queries are all 1 where entries are judged at birth.
    pub(super) gates: DeviceBuffer<f32>,
    /// u32 `[b, G, T]`.
    pub(super) expires_at: DeviceBuffer<u32>,
    /// Of hard votes, once a pass asked for it.
    pub(super) trail: Option<GateTrail>,
}

/// Gradients on their way down, and scratch of the kernels that make them.
#[derive(Debug)]
pub(super) struct BackRoom {
    /// Of the residual stream, f32 `[t, c]`, and the same in W.
    pub(super) d_residual: DeviceBuffer<f32>,
    pub(super) narrow: DeviceBuffer<u8>,
    /// Of a norm's output, W `[t, c]`.
    pub(super) d_input: DeviceBuffer<u8>,
    pub(super) d_mixed: DeviceBuffer<u8>,
    pub(super) d_qkv: DeviceBuffer<u8>,
    pub(super) d_up: DeviceBuffer<u8>,
    pub(super) d_active: DeviceBuffer<u8>,
    /// f32 `[b, h, T]`.
    pub(super) delta: DeviceBuffer<f32>,
    /// Of gates, f32 `[t, 2 G r]`, and the same in W.
    pub(super) d_gates: DeviceBuffer<f32>,
    pub(super) narrow_gates: DeviceBuffer<u8>,
    /// f32 `[2 G r, c]`.
    pub(super) unscaled: DeviceBuffer<f32>,
    /// Of sums over rows.
    pub(super) columns: DeviceBuffer<f32>,
    pub(super) norm: DeviceBuffer<f32>,
    pub(super) turn: DeviceBuffer<f32>,
}

/// What the memory of a pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Forward and back, activations computed again or not, with a teacher of the same shape or without.
    Train { recompute: bool, taught: bool },
    /// Forward through one layer after the other, for what comes out of the last.
    Look,
}

impl Teaching {
    pub(super) fn new(kernels: &Kernels, network: &Network, rows: usize) -> Result<Self, KernelError> {
        let stride = network.config.vocabulary.next_multiple_of(HEAD_ROWS);
        Ok(Self {
            output: kernels.room("the teacher's output", rows * network.config.hidden)?,
            logits: kernels.wide("the teacher's logits", SLICE.min(rows) * stride)?,
        })
    }
}

impl Room {
    pub(super) fn new(
        kernels: &Kernels,
        network: &Network,
        shape: &GatedShape,
        purpose: Purpose,
    ) -> Result<Self, KernelError> {
        let (config, device) = (&network.config, &kernels.device);
        let rows = shape.sequences * shape.tokens;
        // Rows on the way back, and streams between layers.
        let (recompute, taught, back, streams) = match purpose {
            Purpose::Train { recompute, taught } => (recompute, taught, rows, config.layers + 1),
            Purpose::Look => (true, false, 0, 2),
        };
        let (gated, heads) = (network.gates.is_some(), network.gates.map_or(0, |form| form.heads));
        let gate_width = network.gates.map_or(0, GateForm::row);
        let hidden = |rows: usize| kernels.wide("the residual stream", rows * config.hidden);
        let slots = if recompute { 1 } else { config.layers };
        let stride = config.vocabulary.next_multiple_of(HEAD_ROWS);
        let slice = SLICE.min(back);
        let rest = gated && kernels.dtype != DType::F32;
        Ok(Self {
            sequences: shape.sequences,
            tokens: shape.tokens,
            recompute,
            residual: (0..streams).map(|_| hidden(rows)).collect::<Result<_, _>>()?,
            layers: (0..slots).map(|_| LayerRoom::new(kernels, network, rows)).collect::<Result<_, _>>()?,
            rest: rest
                .then(|| DeviceBuffer::uninitialized(device, "the gates' input", 2 * rows * config.hidden))
                .transpose()?,
            normed: kernels.room("the head's input", rows * config.hidden)?,
            final_stats: kernels.wide("statistics of norms", 2 * rows)?,
            taught: taught.then(|| Teaching::new(kernels, network, rows)).transpose()?,
            logits: kernels.wide("logits", slice * stride)?,
            stride,
            hard: gated.then(|| GateScratch::new(device, &kernels.specialisation, shape, 0)).transpose()?,
            soft: None,
            noise: kernels.wide("the thresholds' noise", rows * heads)?,
            back: BackRoom {
                d_residual: hidden(back)?,
                narrow: kernels.room("gradients", back * config.hidden)?,
                d_input: kernels.room("gradients", back * config.hidden)?,
                d_mixed: kernels.room("gradients", back * config.query_width())?,
                d_qkv: kernels.room("gradients", back * network.fused_width())?,
                d_up: kernels.room("gradients", back * config.up_width())?,
                d_active: kernels.room("gradients", back * config.intermediate)?,
                delta: kernels.wide("gradients", back * config.heads)?,
                d_gates: kernels.wide("gradients of gates", 2 * back * gate_width)?,
                narrow_gates: kernels.room("gradients of gates", 2 * back * gate_width)?,
                unscaled: kernels.wide("gradients of gates", 2 * gate_width * config.hidden)?,
                columns: kernels.wide(
                    "partial sums",
                    DeviceSums::scratch(
                        back,
                        config.up_width().max(network.fused_width()).max(config.hidden),
                    ),
                )?,
                norm: kernels.wide("partial sums", TrainNorm::scratch(&kernels.norm))?,
                turn: kernels.wide("partial sums", TrainTurn::scratch(&kernels.turn))?,
            },
        })
    }

    /// Where a layer's intermediate numbers are.
    pub(super) fn slot(&self, layer: usize) -> &LayerRoom {
        &self.layers[if self.recompute { 0 } else { layer }]
    }
}

impl LayerRoom {
    fn new(kernels: &Kernels, network: &Network, rows: usize) -> Result<Self, KernelError> {
        let config = &network.config;
        let (hidden, fused) = (rows * config.hidden, rows * network.fused_width());
        let (heads, gates) = network.gates.map_or((0, 0), |form| (form.heads, form.row()));
        let narrow = |count| kernels.room("activations", count);
        let wide = |count| kernels.wide("activations", count);
        let both = match network.gates {
            // Nobody writes those of queries.
            Some(form) if !form.kind.votes() => {
                DeviceBuffer::copy_of(&kernels.device, "gates", &vec![1.0; 2 * rows * gates])?
            }
            _ => wide(2 * rows * gates)?,
        };
        Ok(Self {
            attention_stats: wide(2 * rows)?,
            attention_input: narrow(hidden)?,
            raw: config.qk_norm.then(|| narrow(fused)).transpose()?,
            qkv: narrow(fused)?,
            mixed: narrow(rows * config.query_width())?,
            lse: wide(rows * config.heads)?,
            middle: wide(hidden)?,
            mlp_stats: wide(2 * rows)?,
            mlp_input: narrow(hidden)?,
            up: narrow(rows * config.up_width())?,
            active: narrow(rows * config.intermediate)?,
            gates: both,
            expires_at: DeviceBuffer::uninitialized(&kernels.device, "lifetimes", rows * heads)?,
            trail: None,
        })
    }
}
