//! What the backward pass needs of the forward pass.

use dropcap_kernels::gated_attention::Saved;
use dropcap_model::DecoderConfig;

use super::gates::GateForm;

/// The numbers of one forward pass over b sequences of T tokens (t = b T rows), and scratch for its backward pass.
///
/// With `recompute`, one layer's intermediate numbers are held at a time and made again on the way back (Chen et al.
/// 2016, arXiv 1604.06174): memory for the residual stream of each layer plus a single layer, for one more forward
/// pass of work.
#[derive(Debug)]
pub struct Activations {
    pub(super) sequences: usize,
    pub(super) tokens: usize,
    pub(super) recompute: bool,
    /// The tokens of the last forward pass, `[t]`.
    pub(super) ids: Vec<u32>,
    /// The residual stream before each layer, and after the last: `[layers + 1][t, c]`.
    pub(super) residual: Vec<Vec<f32>>,
    /// One per layer, or the one that is in use.
    pub(super) layers: Vec<LayerActivations>,
    /// One per layer.
    pub(super) gates: Vec<GateActivations>,
    /// After the final norm, `[t, c]`.
    pub(super) normed: Vec<f32>,
    /// What the votes of each layer came to.
    pub(super) outcomes: Vec<Outcome>,
    /// Gradients of [`Pruning::Mixed`](super::Pruning::Mixed)'s shares, `[L g]`.
    pub(super) d_shares: Vec<f64>,
    pub(super) scratch: Scratch,
}

/// One layer's intermediate numbers.
#[derive(Debug, Default)]
pub(super) struct LayerActivations {
    /// After the attention norm, `[t, c]`: what the projections and the gates read.
    pub(super) attention_input: Vec<f32>,
    /// `[q | k | v]` as attention uses them, `[t, (h + 2g) d]`.
    pub(super) qkv: Vec<f32>,
    /// The same before the norm of each head's queries and keys; empty for families without one.
    pub(super) unnormed: Vec<f32>,
    /// Attention's output, `[t, h d]`.
    pub(super) mixed: Vec<f32>,
    /// The same before it is mixed with that of a dense pass; empty where it is not.
    pub(super) streaming: Vec<f32>,
    pub(super) attention: Saved,
    /// The residual stream after attention, `[t, c]`.
    pub(super) middle: Vec<f32>,
    /// After the MLP norm, `[t, c]`.
    pub(super) mlp_input: Vec<f32>,
    /// The MLP's first product, `[t, m]` or `[t, 2m]`.
    pub(super) up: Vec<f32>,
    /// After the activation, `[t, m]`.
    pub(super) active: Vec<f32>,
}

/// One layer's gates and their gradients.
#[derive(Debug, Default)]
pub(super) struct GateActivations {
    /// `[t, G r]`; all 1 for gates that decide at birth.
    pub(super) query: Vec<f32>,
    /// `[t, G r]`.
    pub(super) key: Vec<f32>,
    /// Biases as voted with, `[G]`.
    pub(super) bias: Vec<f32>,
    /// Gradients of the three.
    pub(super) d_query: Vec<f32>,
    pub(super) d_key: Vec<f32>,
    pub(super) d_bias: Vec<f64>,
}

/// What the votes of one layer came to in one forward pass.
#[derive(Debug, Default, Clone)]
pub(super) struct Outcome {
    /// The first query that no longer sees each entry, `[b, G, T]`.
    pub(super) expires_at: Vec<u32>,
    /// Sums of I without and with the last query's pairs, for soft gates.
    pub(super) survival: [f64; 2],
}

/// A gate that refuses every token: what it leaves are the floors.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    /// Gates of width 1, all zero: `[t]`.
    pub(super) zeros: Vec<f32>,
    /// Where its meaningless gradients go.
    pub(super) d_query: Vec<f32>,
    pub(super) d_key: Vec<f32>,
    pub(super) d_bias: [f64; 1],
}

/// Gradients on their way down.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Of the residual stream, `[t, c]`.
    pub(super) d_residual: Vec<f32>,
    /// Of a norm's output, `[t, c]`.
    pub(super) d_input: Vec<f32>,
    /// Of attention's output, `[t, h d]`.
    pub(super) d_mixed: Vec<f32>,
    /// `[t, (h + 2g) d]`.
    pub(super) d_qkv: Vec<f32>,
    /// Of the MLP's first product.
    pub(super) d_up: Vec<f32>,
    /// Of the activation, `[t, m]`.
    pub(super) d_active: Vec<f32>,
    /// Thresholds' noise, `[b, G, T]`.
    pub(super) noise: Vec<f32>,
    pub(super) refusal: Refusal,
}

impl Activations {
    /// Room for `sequences` of `tokens` each.
    #[must_use]
    pub fn new(
        config: &DecoderConfig,
        gates: Option<GateForm>,
        sequences: usize,
        tokens: usize,
        recompute: bool,
    ) -> Self {
        let rows = sequences * tokens;
        let vector = |width: usize| vec![0.0; rows * width];
        let (hidden, fused) = (config.hidden, config.query_width() + 2 * config.key_width());
        let layer = || LayerActivations {
            attention_input: vector(hidden),
            qkv: vector(fused),
            unnormed: vector(if config.qk_norm { fused } else { 0 }),
            mixed: vector(config.query_width()),
            streaming: Vec::new(),
            attention: Saved::default(),
            middle: vector(hidden),
            mlp_input: vector(hidden),
            up: vector(config.up_width()),
            active: vector(config.intermediate),
        };
        let gate = |form: GateForm| {
            let gate = || vector(form.row());
            GateActivations {
                // Where there is no map of queries, nobody writes them.
                query: vec![1.0; rows * form.row()],
                key: gate(),
                bias: vec![0.0; form.heads],
                d_query: gate(),
                d_key: gate(),
                d_bias: vec![0.0; form.heads],
            }
        };
        Self {
            sequences,
            tokens,
            recompute,
            ids: Vec::with_capacity(rows),
            residual: (0..=config.layers).map(|_| vector(hidden)).collect(),
            layers: (0..if recompute { 1 } else { config.layers }).map(|_| layer()).collect(),
            gates: gates.map(|form| (0..config.layers).map(|_| gate(form)).collect()).unwrap_or_default(),
            normed: vector(hidden),
            outcomes: vec![Outcome::default(); config.layers],
            d_shares: vec![0.0; config.layers * config.kv_heads],
            scratch: Scratch {
                d_residual: vector(hidden),
                d_input: vector(hidden),
                d_mixed: vector(config.query_width()),
                d_qkv: vector(fused),
                d_up: vector(config.up_width()),
                d_active: vector(config.intermediate),
                noise: Vec::new(),
                refusal: Refusal { zeros: vector(1), d_query: vector(1), d_key: vector(1), d_bias: [0.0] },
            },
        }
    }

    /// Bytes held, attention's own not counted before the first pass.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let layer = |layer: &LayerActivations| {
            let LayerActivations {
                attention_input,
                qkv,
                unnormed,
                mixed,
                streaming,
                attention,
                middle,
                mlp_input,
                up,
                active,
            } = layer;
            let vectors = [attention_input, qkv, unnormed, mixed, streaming, middle, mlp_input, up, active];
            vectors.into_iter().map(Vec::len).sum::<usize>() * size_of::<f32>() + attention.bytes()
        };
        let Scratch { d_residual, d_input, d_mixed, d_qkv, d_up, d_active, .. } = &self.scratch;
        let scratch = [d_residual, d_input, d_mixed, d_qkv, d_up, d_active, &self.normed];
        let gates = self.gates.iter().map(|gates| 4 * gates.query.len());
        let numbers = scratch.into_iter().chain(&self.residual).map(Vec::len).chain(gates).sum::<usize>();
        self.layers.iter().map(layer).sum::<usize>() + numbers * size_of::<f32>()
    }

    /// Tokens T of each sequence.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Rows t of all sequences together.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.sequences * self.tokens
    }

    /// The last hidden states after the final norm, `[t, c]`: what the head reads.
    #[must_use]
    pub fn hidden(&self) -> &[f32] {
        &self.normed
    }

    /// Gradients of the last backward pass at the embedding of each row, before anything was added to it, `[t, c]`.
    #[must_use]
    pub fn input_gradients(&self) -> &[f32] {
        &self.scratch.d_residual
    }

    /// Gradients of the shares of the last backward pass under [`Pruning::Mixed`](super::Pruning::Mixed), `[L g]`.
    #[must_use]
    pub fn share_gradients(&self) -> &[f64] {
        &self.d_shares
    }

    /// The first query that no longer sees each entry of a layer in the last forward pass, u32 `[b, G, T]`; empty if
    /// nothing was to be forgotten.
    #[must_use]
    pub fn expires_at(&self, layer: usize) -> &[u32] {
        self.outcomes.get(layer).map_or(&[], |outcome| &outcome.expires_at)
    }

    /// What the projections and the gates of a layer read, `[t, c]`; of the layer in use only, when activations are
    /// recomputed.
    pub(crate) fn attention_input(&self, layer: usize) -> &[f32] {
        &self.layers[self.slot(layer)].attention_input
    }

    /// Where a layer's intermediate numbers are.
    pub(super) fn slot(&self, layer: usize) -> usize {
        if self.recompute { 0 } else { layer }
    }
}
