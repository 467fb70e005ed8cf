//! Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama with a window over all layers in its first version.

use super::{Family, Mapping, llama_layout, sliding};
use crate::config_json::ConfigJson;
use crate::decoder_config::DecoderConfig;
use crate::error::ModelError;

pub(super) const MAPPING: Mapping = Mapping {
    family: Family::Mistral,
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    read,
    plan: llama_layout::plan,
};

const DEFAULTS: llama_layout::Defaults =
    llama_layout::Defaults { kv_heads: Some(8), head_dim: None, bos: Some(1), eos: Some(2) };

fn read(json: &ConfigJson) -> Result<DecoderConfig, ModelError> {
    for key in ["attention_bias", "mlp_bias"] {
        if json.flag_or(key, false)? {
            return Err(json.unsupported(key, "Mistral models have no biases"));
        }
    }
    if json.get("layer_types").is_some() {
        return Err(json.unsupported("layer_types", "Mistral models have one sliding_window for all layers"));
    }
    let config = llama_layout::read(json, Family::Mistral, &DEFAULTS)?;
    Ok(DecoderConfig { sliding_window: vec![sliding::window(json)?; config.layers], ..config })
}
