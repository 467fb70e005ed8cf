//! Llama 1, 2 and 3 (Touvron et al. 2023, arXiv 2302.13971; Grattafiori et al. 2024, arXiv 2407.21783).

use super::{Family, Mapping, llama_layout};
use crate::config_json::ConfigJson;
use crate::decoder_config::DecoderConfig;
use crate::error::ModelError;

pub(super) const MAPPING: Mapping = Mapping {
    family: Family::Llama,
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    read,
    plan: llama_layout::plan,
};

const DEFAULTS: llama_layout::Defaults =
    llama_layout::Defaults { kv_heads: None, head_dim: None, bos: Some(1), eos: Some(2) };

fn read(json: &ConfigJson) -> Result<DecoderConfig, ModelError> {
    let attention_bias = json.flag_or("attention_bias", false)?;
    Ok(DecoderConfig {
        attention_bias,
        output_bias: attention_bias,
        mlp_bias: json.flag_or("mlp_bias", false)?,
        ..llama_layout::read(json, Family::Llama, &DEFAULTS)?
    })
}
