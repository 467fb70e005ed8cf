//! GPT-2 (Radford et al. 2019): LayerNorm, learned positions, and matrices stored inputs by outputs.

use super::{Family, Has, Mapping};
use crate::config_json::ConfigJson;
use crate::decoder_config::{
    DecoderConfig, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN, MAX_INTERMEDIATE, MAX_LAYERS, MAX_POSITIONS,
    MAX_VOCABULARY, MIN_EPSILON, Mlp, Norm, NormKind, Position, ScoreScale,
};
use crate::error::ModelError;
use crate::special_ids::special_ids;
use crate::stated_dtype::stated_dtype;
use crate::weight_plan::{LayerPlan, MatrixPlan, NormPlan, VectorPart, WeightPlan};

pub(super) const MAPPING: Mapping =
    Mapping { family: Family::Gpt2, model_type: "gpt2", architecture: "GPT2LMHeadModel", read, plan };

/// The end-of-text token of the published models, for configs that leave it out.
const END_OF_TEXT: u32 = 50256;

fn read(json: &ConfigJson) -> Result<DecoderConfig, ModelError> {
    if json.flag_or("add_cross_attention", false)? {
        return Err(json.unsupported("add_cross_attention", "only decoders without an encoder"));
    }
    // reorder_and_upcast_attn asks for f32 scores, which is how they are computed anyway.
    json.flag_or("reorder_and_upcast_attn", false)?;
    let mlp = match json.text("activation_function")? {
        None | Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast") => Mlp::GeluTanh,
        Some("gelu" | "gelu_python") => Mlp::Gelu,
        Some(_) => {
            return Err(json.unsupported(
                "activation_function",
                "the activations supported are gelu_new, gelu_pytorch_tanh, gelu_fast and gelu",
            ));
        }
    };
    let layers = json.count("n_layer", MAX_LAYERS)?;
    let hidden = json.count("n_embd", MAX_HIDDEN)?;
    let heads = json.count("n_head", MAX_HEADS)?;
    if !hidden.is_multiple_of(heads) || hidden / heads > MAX_HEAD_DIM {
        let expected = format!("a multiple of n_head = {heads}, and at most {MAX_HEAD_DIM} times as large");
        return Err(json.refuse("n_embd", expected));
    }
    let vocabulary = json.count("vocab_size", MAX_VOCABULARY)?;
    let (bos_token_id, eos_token_ids) = special_ids(json, Some(END_OF_TEXT), Some(END_OF_TEXT), vocabulary)?;
    Ok(DecoderConfig {
        family: Family::Gpt2,
        layers,
        hidden,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        intermediate: json.count_or("n_inner", MAX_INTERMEDIATE, 4 * hidden)?,
        vocabulary,
        max_positions: json.count("n_positions", MAX_POSITIONS)?,
        norm: Norm {
            kind: NormKind::LayerNorm,
            epsilon: json.number_or("layer_norm_epsilon", MIN_EPSILON, 1.0, 1e-5)? as f32,
        },
        position: Position::Learned,
        mlp,
        score_scale: ScoreScale {
            by_head_width: json.flag_or("scale_attn_weights", true)?,
            by_layer: json.flag_or("scale_attn_by_inverse_layer_idx", false)?,
        },
        attention_bias: true,
        output_bias: true,
        mlp_bias: true,
        qk_norm: false,
        tied_embeddings: json.flag_or("tie_word_embeddings", true)?,
        sliding_window: vec![None; layers],
        bos_token_id,
        eos_token_ids,
        dtype: stated_dtype(json)?,
    })
}

const HEAD: &str = "lm_head.weight";

/// The first published files were saved without the head, and so without the prefix of what is under it.
fn plan(config: &DecoderConfig, has: Has<'_>) -> WeightPlan {
    let prefix = if has("wte.weight") { "" } else { "transformer." };
    let (hidden, wide) = (config.hidden, config.intermediate);
    let norm = |name: String| NormPlan {
        weight: VectorPart::new(format!("{name}.weight"), hidden),
        bias: Some(VectorPart::new(format!("{name}.bias"), hidden)),
    };
    let layer = |index: usize| {
        let layer = format!("{prefix}h.{index}");
        LayerPlan {
            attention_norm: norm(format!("{layer}.ln_1")),
            qkv: MatrixPlan::conv1d(&format!("{layer}.attn.c_attn"), 3 * hidden, hidden),
            query_norm: None,
            key_norm: None,
            output: MatrixPlan::conv1d(&format!("{layer}.attn.c_proj"), hidden, hidden),
            mlp_norm: norm(format!("{layer}.ln_2")),
            up: MatrixPlan::conv1d(&format!("{layer}.mlp.c_fc"), wide, hidden),
            down: MatrixPlan::conv1d(&format!("{layer}.mlp.c_proj"), hidden, wide),
        }
    };
    WeightPlan {
        embedding: MatrixPlan::table(format!("{prefix}wte.weight"), config.vocabulary, hidden),
        positions: Some(MatrixPlan::table(format!("{prefix}wpe.weight"), config.max_positions, hidden)),
        layers: (0..config.layers).map(layer).collect(),
        final_norm: norm(format!("{prefix}ln_f")),
        head: (!config.tied_embeddings)
            .then(|| MatrixPlan::table(HEAD.to_owned(), config.vocabulary, hidden)),
        prefix,
        tied_copy: config.tied_embeddings.then_some(HEAD),
        // Causal masks that old versions saved beside the weights.
        buffers: &[".attn.bias", ".attn.masked_bias"],
    }
}
