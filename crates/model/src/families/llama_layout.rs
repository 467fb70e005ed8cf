//! What Llama, Mistral and Qwen have in common: keys of the config, names of the tensors.

use crate::config_json::ConfigJson;
use crate::decoder_config::{
    DecoderConfig, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_INTERMEDIATE, MAX_LAYERS, MAX_POSITIONS,
    MAX_VOCABULARY, MIN_EPSILON, Mlp, Norm, NormKind, Position, ScoreScale,
};
use crate::error::ModelError;
use crate::families::{Family, Has};
use crate::rope_config::RopeConfig;
use crate::special_ids::special_ids;
use crate::stated_dtype::stated_dtype;
use crate::weight_plan::{LayerPlan, MatrixPlan, NormPlan, VectorPart, WeightPlan};

/// The defaults in which the families differ, for keys that a config leaves out.
pub(super) struct Defaults {
    /// KV heads, where not one per query head.
    pub(super) kv_heads: Option<usize>,
    /// Head width, where not `hidden_size / num_attention_heads`.
    pub(super) head_dim: Option<usize>,
    /// `bos_token_id`.
    pub(super) bos: Option<u32>,
    /// `eos_token_id`.
    pub(super) eos: Option<u32>,
}

/// Reads everything but biases, q/k norms and windows, which stay off.
pub(super) fn read(
    json: &ConfigJson,
    family: Family,
    defaults: &Defaults,
) -> Result<DecoderConfig, ModelError> {
    let layers = json.count("num_hidden_layers", MAX_LAYERS)?;
    let hidden = json.count("hidden_size", MAX_HIDDEN)?;
    let heads = json.count("num_attention_heads", MAX_HEADS)?;
    let vocabulary = json.count("vocab_size", MAX_VOCABULARY)?;
    let max_positions = json.count("max_position_embeddings", MAX_POSITIONS)?;
    if !matches!(json.text("hidden_act")?, None | Some("silu" | "swish")) {
        return Err(json.unsupported("hidden_act", "the activation supported is silu"));
    }
    let (bos_token_id, eos_token_ids) = special_ids(json, defaults.bos, defaults.eos, vocabulary)?;
    Ok(DecoderConfig {
        family,
        layers,
        hidden,
        heads,
        kv_heads: kv_heads(json, heads, defaults)?,
        head_dim: head_dim(json, hidden, heads, defaults)?,
        intermediate: json.count("intermediate_size", MAX_INTERMEDIATE)?,
        vocabulary,
        max_positions,
        norm: Norm {
            kind: NormKind::RmsNorm,
            epsilon: json.number_or("rms_norm_eps", MIN_EPSILON, 1.0, 1e-6)? as f32,
        },
        position: Position::Rope(RopeConfig::read(json, max_positions)?),
        mlp: Mlp::SwiGlu,
        score_scale: ScoreScale { by_head_width: true, by_layer: false },
        attention_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tied_embeddings: json.flag_or("tie_word_embeddings", false)?,
        sliding_window: vec![None; layers],
        bos_token_id,
        eos_token_ids,
        dtype: stated_dtype(json)?,
    })
}

fn kv_heads(json: &ConfigJson, heads: usize, defaults: &Defaults) -> Result<usize, ModelError> {
    const KEY: &str = "num_key_value_heads";
    // Absent takes the family's default; null takes one per query head.
    let absent = if json.states(KEY) { heads } else { defaults.kv_heads.unwrap_or(heads) };
    let kv_heads = json.count_or(KEY, heads, absent)?;
    if heads.is_multiple_of(kv_heads) {
        Ok(kv_heads)
    } else {
        Err(json.refuse(KEY, format!("a divisor of num_attention_heads = {heads}")))
    }
}

fn head_dim(
    json: &ConfigJson,
    hidden: usize,
    heads: usize,
    defaults: &Defaults,
) -> Result<usize, ModelError> {
    const KEY: &str = "head_dim";
    if json.get(KEY).is_none() && defaults.head_dim.is_none() && !hidden.is_multiple_of(heads) {
        return Err(json.refuse("hidden_size", format!("a multiple of num_attention_heads = {heads}")));
    }
    let head_dim = json.count_or(KEY, MAX_HEAD_DIM, defaults.head_dim.unwrap_or(hidden / heads))?;
    if head_dim == 0 || head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(2) {
        let expected = format!("an even number from 2 to {MAX_HEAD_DIM} (here it is {head_dim})");
        return Err(json.refuse(KEY, expected));
    }
    Ok(head_dim)
}

/// The tensors of a decoder with the layout of Llama.
pub(super) fn plan(config: &DecoderConfig, has: Has<'_>) -> WeightPlan {
    let (hidden, wide) = (config.hidden, config.intermediate);
    let (queries, keys) = (config.query_width(), config.key_width());
    let linear = |at: &str, names: &[(&str, usize)], inputs: usize, bias: bool| {
        MatrixPlan::linear(
            names.iter().map(|(name, outputs)| (format!("{at}.{name}"), *outputs)),
            inputs,
            bias,
        )
    };
    let norm = |name: String, length| NormPlan { weight: VectorPart::new(name, length), bias: None };
    let layer = |index: usize| {
        let layer = format!("model.layers.{index}");
        let (attention, mlp) = (format!("{layer}.self_attn"), format!("{layer}.mlp"));
        let head_norm = |name: &str| {
            config.qk_norm.then(|| VectorPart::new(format!("{attention}.{name}.weight"), config.head_dim))
        };
        let fused = [("q_proj", queries), ("k_proj", keys), ("v_proj", keys)];
        LayerPlan {
            attention_norm: norm(format!("{layer}.input_layernorm.weight"), hidden),
            qkv: linear(&attention, &fused, hidden, config.attention_bias),
            query_norm: head_norm("q_norm"),
            key_norm: head_norm("k_norm"),
            output: linear(&attention, &[("o_proj", hidden)], queries, config.output_bias),
            mlp_norm: norm(format!("{layer}.post_attention_layernorm.weight"), hidden),
            up: linear(&mlp, &[("gate_proj", wide), ("up_proj", wide)], hidden, config.mlp_bias),
            down: linear(&mlp, &[("down_proj", hidden)], wide, config.mlp_bias),
        }
    };
    let table = |name: &str| MatrixPlan::table(name.to_owned(), config.vocabulary, hidden);
    // Of two tied tensors some writers store only the head.
    let only_head = config.tied_embeddings && !has(EMBEDDING) && has(HEAD);
    WeightPlan {
        embedding: table(if only_head { HEAD } else { EMBEDDING }),
        positions: None,
        layers: (0..config.layers).map(layer).collect(),
        final_norm: norm("model.norm.weight".to_owned(), hidden),
        head: (!config.tied_embeddings).then(|| table(HEAD)),
        prefix: "model.",
        tied_copy: config.tied_embeddings.then_some(HEAD),
        buffers: &[".rotary_emb.inv_freq"],
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
