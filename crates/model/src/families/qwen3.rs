//! Qwen3 (Yang et al. 2025, arXiv 2505.09388): Llama with an RMS norm on each head's queries and keys.

use super::{Family, Mapping, llama_layout, sliding};
use crate::config_json::ConfigJson;
use crate::decoder_config::DecoderConfig;
use crate::error::ModelError;

pub(super) const MAPPING: Mapping = Mapping {
    family: Family::Qwen3,
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    read,
    plan: llama_layout::plan,
};

const DEFAULTS: llama_layout::Defaults =
    llama_layout::Defaults { kv_heads: Some(32), head_dim: Some(128), bos: None, eos: None };

fn read(json: &ConfigJson) -> Result<DecoderConfig, ModelError> {
    let attention_bias = json.flag_or("attention_bias", false)?;
    let config = llama_layout::read(json, Family::Qwen3, &DEFAULTS)?;
    Ok(DecoderConfig {
        attention_bias,
        output_bias: attention_bias,
        qk_norm: true,
        sliding_window: sliding::per_layer(json, config.layers)?,
        ..config
    })
}
