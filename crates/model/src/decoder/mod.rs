//! One configurable decoder for every family: norm, fused projection, rotation, gated attention, MLP.
//!
//! A family is a mapping from its config and tensor names to [`DecoderConfig`] and [`DecoderWeights`];
//! nothing here asks which family it is. This is the only place where a pruning policy is called.

mod fill;
mod forward;
mod linear;
mod load;
mod memory;
mod norm;
mod random;
mod scratch;

pub use forward::{DeathSink, Logits, Segment};
pub use linear::Linear;
pub(crate) use load::rope_table;
pub use norm::NormWeights;
pub use scratch::Scratch;

use dropcap_cache::PagePool;
use dropcap_kernels::{DType, PackedMatrix, PageLayout, RopeTable};
use dropcap_policy::EvictionPolicy;

use crate::{DecoderConfig, ModelError};

/// A decoder-only transformer whose weights are packed for this machine.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    /// Token embedding `[v, c]`; also the head when the config ties them.
    embedding: PackedMatrix,
    /// Learned positions `[max_positions, c]`, for families that have them.
    positions: Option<PackedMatrix>,
    rope: Option<RopeTable>,
    layers: Vec<DecoderLayer>,
    final_norm: NormWeights,
    /// Output head `[v, c]`, absent when tied to the embedding.
    head: Option<PackedMatrix>,
}

/// The weights of one layer; `norm -> attention -> add -> norm -> MLP -> add`.
#[derive(Debug)]
struct DecoderLayer {
    attention_norm: NormWeights,
    /// `[q | k | v]` stacked along outputs: `[(h + 2g) d, c]`.
    qkv: Linear,
    /// Per-head RMS norms of queries and keys `[d]` (Qwen3).
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    output: Linear,
    mlp_norm: NormWeights,
    /// `[m, c]`, or `[gate | up]` stacked `[2m, c]` for SwiGLU.
    up: Linear,
    down: Linear,
}

impl Decoder {
    /// The architecture that this decoder was built from.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Bytes of all weights as they are held in memory, packing included.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let layers = self.layers.iter().map(DecoderLayer::bytes).sum::<usize>();
        let optional = |matrix: &Option<PackedMatrix>| matrix.as_ref().map_or(0, PackedMatrix::bytes);
        self.embedding.bytes()
            + optional(&self.positions)
            + optional(&self.head)
            + self.final_norm.bytes()
            + layers
    }

    /// Bytes of weights that one decode step reads: all but the embedding rows it does not look up.
    #[must_use]
    pub fn streamed_bytes(&self) -> usize {
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        head.bytes() + self.layers.iter().map(DecoderLayer::bytes).sum::<usize>()
    }

    /// An empty pool of pages shaped for this decoder under `policy`, storing numbers as `dtype` and
    /// never holding more than `limit_bytes`.
    ///
    /// # Errors
    /// A page so large that its size overflows, or a limit below one page.
    pub fn page_pool(
        &self,
        policy: &dyn EvictionPolicy,
        dtype: DType,
        limit_bytes: Option<usize>,
    ) -> Result<PagePool, ModelError> {
        let heads = self.config.kv_heads / self.lanes_per_layer(policy);
        let side_widths = policy.side_channels().iter().map(|channel| channel.width).collect();
        let layout = PageLayout::new(heads, self.config.head_dim, side_widths, dtype)?;
        Ok(PagePool::new(layout, limit_bytes))
    }

    /// How many lanes each layer of a sequence has under `policy`: one, or one per KV head.
    #[must_use]
    pub fn lanes_per_layer(&self, policy: &dyn EvictionPolicy) -> usize {
        if policy.per_head() { self.config.kv_heads } else { 1 }
    }
}

impl DecoderLayer {
    fn bytes(&self) -> usize {
        let vector = |values: &Option<Vec<f32>>| values.as_ref().map_or(0, |v| size_of_val(v.as_slice()));
        self.attention_norm.bytes()
            + self.qkv.bytes()
            + vector(&self.query_norm)
            + vector(&self.key_norm)
            + self.output.bytes()
            + self.mlp_norm.bytes()
            + self.up.bytes()
            + self.down.bytes()
    }
}
