//! The one description that every family's `config.json` is brought to.

use std::path::Path;

use dropcap_kernels::DType;

use crate::config_json::ConfigJson;
use crate::error::ModelError;
use crate::families::Family;
use crate::rope_config::RopeConfig;

/// Most layers of a model.
pub const MAX_LAYERS: usize = 1024;
/// Largest width of the residual stream, c.
pub const MAX_HIDDEN: usize = 1 << 17;
/// Most query heads, h.
pub const MAX_HEADS: usize = 4096;
/// Largest width of one head, d.
pub const MAX_HEAD_DIM: usize = 1024;
/// Largest width of an MLP.
pub const MAX_INTERMEDIATE: usize = 1 << 20;
/// Most tokens of a vocabulary, v.
pub const MAX_VOCABULARY: usize = 1 << 22;
/// What a norm's epsilon must be above; smaller ones would vanish in f32.
pub(crate) const MIN_EPSILON: f64 = 1e-30;
/// Most positions.
pub const MAX_POSITIONS: usize = 1 << 27;

/// What a decoder computes, whatever its family: the result of reading a `config.json` of either style.
///
/// Every number has been checked against the limits of this module, so that products of a few of them cannot
/// overflow; whether the weights are of these dimensions is for [`crate::Checkpoint`] to say.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The family, which gives the names of the tensors.
    pub family: Family,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream, c.
    pub hidden: usize,
    /// Number of query heads, h.
    pub heads: usize,
    /// Number of KV heads, g; divides h.
    pub kv_heads: usize,
    /// Width of one head, d; even where positions rotate.
    pub head_dim: usize,
    /// Width of the MLP between its matrices.
    pub intermediate: usize,
    /// Number of tokens, v.
    pub vocabulary: usize,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// The norm before attention, before the MLP and before the head.
    pub norm: Norm,
    /// How a token's position enters.
    pub position: Position,
    /// The MLP's activation and form.
    pub mlp: Mlp,
    /// How scores are scaled.
    pub score_scale: ScoreScale,
    /// Whether the q, k and v projections have biases.
    pub attention_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's matrices have biases.
    pub mlp_bias: bool,
    /// Whether each head's queries and keys pass an RMS norm before they are rotated.
    pub qk_norm: bool,
    /// Whether the head is the token embedding.
    pub tied_embeddings: bool,
    /// Per layer, how many positions a query sees, itself included; `None` sees all.
    pub sliding_window: Vec<Option<u32>>,
    /// The token that begins a text, where the config names one inside the vocabulary.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text, those inside the vocabulary; see [`crate::GenerationConfig`] for what overrides them.
    pub eos_token_ids: Vec<u32>,
    /// The dtype that the config names, if it is one that can be computed with.
    pub dtype: Option<DType>,
}

/// The norm of a family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Which norm.
    pub kind: NormKind,
    /// Added to the variance or the mean square.
    pub epsilon: f32,
}

/// The two norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Subtracts the mean; has weight and bias.
    LayerNorm,
    /// Keeps the mean; has a weight.
    RmsNorm,
}

/// How a token's position enters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// A learned row is added to the embedding.
    Learned,
    /// Queries and keys are rotated.
    Rope(RopeConfig),
}

/// The form of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mlp {
    /// `down(gelu(up(x)))` with the tanh approximation.
    GeluTanh,
    /// `down(gelu(up(x)))` with the error function.
    Gelu,
    /// `down(silu(gate(x)) * up(x))`.
    SwiGlu,
}

/// How scores are scaled before the softmax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreScale {
    /// Divided by the root of d.
    pub by_head_width: bool,
    /// Divided by the layer's number, counted from 1.
    pub by_layer: bool,
}

impl DecoderConfig {
    /// Reads the `config.json` of a directory.
    ///
    /// # Errors
    /// No such file; an architecture or a feature that is not supported, by name; a value out of bounds, with
    /// file, key, value and limit.
    pub fn open(directory: &Path) -> Result<Self, ModelError> {
        let path = directory.join("config.json");
        let missing = || ModelError::NoConfig { path: path.clone() };
        Self::read(&ConfigJson::open(&path)?.ok_or_else(missing)?)
    }

    /// Reads the text of a `config.json`; `path` is only for messages.
    ///
    /// # Errors
    /// As [`DecoderConfig::open`].
    pub fn parse(path: &Path, text: &[u8]) -> Result<Self, ModelError> {
        Self::read(&ConfigJson::parse(path, text)?)
    }

    fn read(json: &ConfigJson) -> Result<Self, ModelError> {
        let family = Family::of(json)?;
        if json.get("quantization_config").is_some() {
            return Err(json.unsupported("quantization_config", "use weights stored as F32, F16 or BF16"));
        }
        family.read(json)
    }

    /// What scores of a layer are multiplied by before the softmax.
    pub fn attention_scale(&self, layer: usize) -> f32 {
        let width = if self.score_scale.by_head_width { (self.head_dim as f32).sqrt() } else { 1.0 };
        let depth = if self.score_scale.by_layer { (layer + 1) as f32 } else { 1.0 };
        1.0 / width / depth
    }

    /// Whether the MLP has a gate beside its first matrix.
    pub fn is_gated(&self) -> bool {
        self.mlp == Mlp::SwiGlu
    }

    /// Outputs of the MLP's first matrix, a gate included.
    pub fn up_width(&self) -> usize {
        if self.is_gated() { 2 * self.intermediate } else { self.intermediate }
    }

    /// Width of all queries of a token, `h * d`.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of all keys, or of all values, of a token, `g * d`.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}
