//! `config.json` and `generation_config.json` of a GGUF file's metadata.

use dropcap_weights::{ContentDigest, GgufFile};
use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use crate::decoder_config::{DecoderConfig, Position};
use crate::error::ModelError;

/// What the frequencies of Llama 3 are divided by: its scaling stands in no metadata, only in this tensor.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Features of other models that share an architecture's name, and change what it computes.
const UNSUPPORTED: [&str; 5] =
    ["attention.clamp_kqv", "attention.scale", "logit_scale", "residual_scale", "embedding_scale"];

/// Rows of a head of queries and keys.
pub(super) fn head_dim(metadata: &Metadata<'_>) -> Result<usize, ModelError> {
    let heads_key = metadata.key("attention.head_count");
    let heads = metadata.required(&heads_key)?;
    let stated = metadata.count(&metadata.key("attention.key_length"))?;
    let hidden = metadata.required(&metadata.key("embedding_length"))?;
    let width = stated.or_else(|| hidden.checked_div(heads)).filter(|&width| width > 0);
    width
        .and_then(|width| usize::try_from(width).ok())
        .ok_or_else(|| metadata.refuse(&heads_key, format!("a number from 1 to embedding_length = {hidden}")))
}

/// The `config.json` that a file was made from, as far as it says what is computed.
pub(super) fn config(file: &GgufFile, metadata: &Metadata<'_>) -> Result<Value, ModelError> {
    let architecture = metadata.architecture();
    let key = |name: &str| metadata.key(name);
    let mut config = match architecture {
        "llama" | "qwen2" | "qwen3" => llama_layout(file, metadata)?,
        "gpt2" => json!({
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_layer": metadata.required(&key("block_count"))?,
            "n_embd": metadata.required(&key("embedding_length"))?,
            "n_head": metadata.required(&key("attention.head_count"))?,
            "n_inner": metadata.required(&key("feed_forward_length"))?,
            "n_positions": metadata.required(&key("context_length"))?,
            "layer_norm_epsilon": metadata.number(&key("attention.layer_norm_epsilon"))?.unwrap_or(1e-5),
        }),
        _ => {
            let expected = "one of llama, qwen2, qwen3 and gpt2 (Mistral's models are called llama)";
            return Err(metadata.refuse("general.architecture", expected));
        }
    };
    for name in UNSUPPORTED {
        if metadata.get(&key(name)).is_some() {
            return Err(metadata.refuse(&key(name), "no such entry: what it asks for is not supported"));
        }
    }
    if metadata.count(&key("expert_count"))?.is_some_and(|experts| experts > 0) {
        return Err(metadata.refuse(&key("expert_count"), "no mixture of experts"));
    }
    let rows = file.info("token_embd.weight").and_then(|info| info.shape.first().copied());
    let entries = [
        ("vocab_size", json!(rows.ok_or_else(|| metadata.refuse("token_embd.weight", "a tensor"))?)),
        ("tie_word_embeddings", json!(tied(file)?)),
        ("bos_token_id", json!(metadata.count("tokenizer.ggml.bos_token_id")?)),
        ("eos_token_id", json!(ends(metadata)?)),
    ];
    if let Value::Object(config) = &mut config {
        config.extend(entries.map(|(name, value)| (name.to_owned(), value)));
    }
    check_rope_factors(file, metadata, &mut config)?;
    Ok(config)
}

/// The `generation_config.json` of a file.
pub(super) fn generation(metadata: &Metadata<'_>) -> Result<Value, ModelError> {
    Ok(json!({
        "bos_token_id": metadata.count("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": ends(metadata)?,
    }))
}

/// Every token that a file says ends a text or a turn.
fn ends(metadata: &Metadata<'_>) -> Result<Vec<u64>, ModelError> {
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        let id = metadata.count(&format!("tokenizer.ggml.{name}_token_id"))?;
        ends.extend(id.filter(|id| !ends.contains(id)));
    }
    Ok(ends)
}

/// Whether the head is the embedding: left out, or stored again.
fn tied(file: &GgufFile) -> Result<bool, ModelError> {
    if file.info("output.weight").is_none() {
        return Ok(true);
    }
    let digest = |name: &str| {
        let mut digest = ContentDigest::new();
        digest.gguf_tensor("", file, name).map(|()| digest.finish())
    };
    Ok(file.info("token_embd.weight").is_some() && digest("output.weight")? == digest("token_embd.weight")?)
}

fn llama_layout(file: &GgufFile, metadata: &Metadata<'_>) -> Result<Value, ModelError> {
    let architecture = metadata.architecture();
    let key = |name: &str| metadata.key(name);
    let heads = metadata.required(&key("attention.head_count"))?;
    let window = metadata.count(&key("attention.sliding_window"))?;
    let (kind, class) = match (architecture, window) {
        // llama.cpp knows no architecture of this name; of the two only Mistral has a window.
        ("llama", Some(_)) => ("mistral", "MistralForCausalLM"),
        ("llama", None) => ("llama", "LlamaForCausalLM"),
        ("qwen2", None) => ("qwen2", "Qwen2ForCausalLM"),
        (_, None) => ("qwen3", "Qwen3ForCausalLM"),
        (_, Some(_)) => {
            let expected = "no window: which layers have it is not said";
            return Err(metadata.refuse(&key("attention.sliding_window"), expected));
        }
    };
    let mut config = json!({
        "model_type": kind,
        "architectures": [class],
        "num_hidden_layers": metadata.required(&key("block_count"))?,
        "hidden_size": metadata.required(&key("embedding_length"))?,
        "intermediate_size": metadata.required(&key("feed_forward_length"))?,
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.count(&key("attention.head_count_kv"))?.unwrap_or(heads),
        "max_position_embeddings": metadata.required(&key("context_length"))?,
        "rms_norm_eps": number(metadata, "attention.layer_norm_rms_epsilon")?,
        "rope_theta": metadata.number(&key("rope.freq_base"))?.unwrap_or(10_000.0),
    });
    let head_dim = head_dim(metadata)?;
    let Value::Object(entries) = &mut config else { return Ok(config) };
    let mut set = |name: &str, value: Value| entries.insert(name.to_owned(), value);
    if metadata.get(&key("attention.key_length")).is_some() || kind == "qwen3" {
        set("head_dim", json!(head_dim));
    }
    let values = metadata.count(&key("attention.value_length"))?;
    if values.is_some_and(|values| values != head_dim as u64) {
        return Err(metadata.refuse(&key("attention.value_length"), format!("the width of keys, {head_dim}")));
    }
    let turned = metadata.count(&key("rope.dimension_count"))?.unwrap_or(head_dim as u64);
    if turned != head_dim as u64 {
        return Err(metadata.refuse(&key("rope.dimension_count"), format!("the head's width, {head_dim}")));
    }
    if let Some(window) = window {
        set("sliding_window", json!(window));
    } else if kind == "qwen2" || kind == "qwen3" {
        set("use_sliding_window", json!(false));
    }
    // Qwen2 has biases always; what the others have shows in their tensors.
    if kind != "qwen2" && file.info("blk.0.attn_q.bias").is_some() {
        set("attention_bias", json!(true));
    }
    if kind == "llama" && file.info("blk.0.ffn_up.bias").is_some() {
        set("mlp_bias", json!(true));
    }
    if let Some(scaling) = rope_scaling(metadata)? {
        set("rope_scaling", scaling);
    }
    Ok(config)
}

fn number(metadata: &Metadata<'_>, name: &str) -> Result<f64, ModelError> {
    let key = metadata.key(name);
    metadata.number(&key)?.ok_or_else(|| metadata.refuse(&key, "a number"))
}

/// The scaling that the metadata names.
fn rope_scaling(metadata: &Metadata<'_>) -> Result<Option<Value>, ModelError> {
    let key = |name: &str| metadata.key(&format!("rope.{name}"));
    let mut scaling = Map::new();
    match metadata.text(&key("scaling.type"))? {
        None => {
            // The older key, of linear scaling only.
            let Some(factor) = metadata.number(&key("scale_linear"))?.filter(|&factor| factor != 1.0) else {
                return Ok(None);
            };
            scaling.extend([("rope_type".to_owned(), json!("linear")), ("factor".to_owned(), json!(factor))]);
            return Ok(Some(scaling.into()));
        }
        Some("none") => return Ok(None),
        Some(kind @ ("linear" | "yarn")) => scaling.insert("rope_type".into(), json!(kind)),
        Some(_) => return Err(metadata.refuse(&key("scaling.type"), "one of none, linear and yarn")),
    };
    scaling.insert("factor".into(), json!(number(metadata, "rope.scaling.factor")?));
    if let Some(original) = metadata.count(&key("scaling.original_context_length"))? {
        scaling.insert("original_max_position_embeddings".into(), json!(original));
    }
    for (name, there) in [("beta_fast", "scaling.yarn_beta_fast"), ("beta_slow", "scaling.yarn_beta_slow")] {
        if let Some(beta) = metadata.number(&key(there))? {
            scaling.insert(name.into(), json!(beta));
        }
    }
    for name in ["scaling.attn_factor", "scaling.yarn_attn_factor"] {
        if metadata.number(&key(name))?.is_some_and(|factor| factor != 1.0) {
            return Err(metadata.refuse(&key(name), "1: other factors of attention are not supported"));
        }
    }
    Ok(Some(scaling.into()))
}

/// Names the scaling of Llama 3 where the file divides frequencies, if that is what the divisors are.
fn check_rope_factors(
    file: &GgufFile,
    metadata: &Metadata<'_>,
    config: &mut Value,
) -> Result<(), ModelError> {
    let Some(info) = file.info(ROPE_FACTORS) else { return Ok(()) };
    let mut bytes = vec![0; info.bytes() as usize];
    file.read_range(ROPE_FACTORS, 0, &mut bytes)?;
    let mut factors = Vec::new();
    info.dtype.dequantise(&bytes, &mut factors);
    let largest = factors.iter().copied().fold(0.0, f32::max);
    let parse = |config: &Value| DecoderConfig::parse(file.path(), config.to_string().as_bytes());
    let plain = frequencies(&parse(config)?);
    let close = |((plain, scaled), factor): ((&f32, &f32), &f32)| {
        (plain / factor - scaled).abs() <= 1e-4 * scaled.abs()
    };
    // Of the constants behind the divisors only the positions of pretraining differ between published models.
    for original in (4..=20).map(|power| 1usize << power) {
        config["rope_scaling"] = json!({
            "rope_type": "llama3",
            "factor": largest,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        });
        let scaled = frequencies(&parse(config)?);
        if factors.len() == plain.len() && plain.iter().zip(&scaled).zip(&factors).all(close) {
            return Ok(());
        }
    }
    Err(metadata.refuse(ROPE_FACTORS, "the divisors of Llama 3's scaling"))
}

fn frequencies(config: &DecoderConfig) -> Vec<f32> {
    match config.position {
        Position::Learned => Vec::new(),
        Position::Rope(rope) => rope.frequencies(config.head_dim).0,
    }
}
