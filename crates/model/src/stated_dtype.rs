//! The dtype that a config names.

use dropcap_kernels::DType;

use crate::config_json::ConfigJson;
use crate::error::ModelError;

/// Reads `dtype`, or the older `torch_dtype`; nothing when it is absent or not one that can be computed with.
pub(crate) fn stated_dtype(json: &ConfigJson) -> Result<Option<DType>, ModelError> {
    let name = match json.text("dtype")? {
        Some(name) => Some(name),
        None => json.text("torch_dtype")?,
    };
    Ok(match name.map(|name| name.trim_start_matches("torch.")) {
        Some("float32") => Some(DType::F32),
        Some("float16") => Some(DType::F16),
        Some("bfloat16") => Some(DType::Bf16),
        _ => None,
    })
}
