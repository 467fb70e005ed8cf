//! Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv 2407.10671): Llama with biases on q, k and v.

use super::{Family, Mapping, llama_layout, sliding};
use crate::config_json::ConfigJson;
use crate::decoder_config::DecoderConfig;
use crate::error::ModelError;

pub(super) const MAPPING: Mapping = Mapping {
    family: Family::Qwen2,
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    read,
    plan: llama_layout::plan,
};

const DEFAULTS: llama_layout::Defaults =
    llama_layout::Defaults { kv_heads: Some(32), head_dim: None, bos: None, eos: None };

fn read(json: &ConfigJson) -> Result<DecoderConfig, ModelError> {
    let config = llama_layout::read(json, Family::Qwen2, &DEFAULTS)?;
    Ok(DecoderConfig {
        attention_bias: true,
        sliding_window: sliding::per_layer(json, config.layers)?,
        ..config
    })
}
