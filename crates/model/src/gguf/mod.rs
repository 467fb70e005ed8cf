//! A GGUF file as the Hugging Face directory that it was made from: the same tensors under the same names, and the same
//! files beside them.

mod config;
mod metadata;
mod names;
mod pieces;
mod splitting;
mod tensors;
mod tokenizer;

use std::path::Path;

use dropcap_weights::GgufFile;
use serde_json::Value;

pub(crate) use tensors::GgufTensors;

use crate::error::ModelError;
use metadata::Metadata;

/// The file of that name in the directory that a GGUF file stands for; none where it has none.
pub(crate) fn companion(path: &Path, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
    let of: fn(&GgufFile, &Metadata<'_>) -> Result<Value, ModelError> = match name {
        "config.json" => config::config,
        "generation_config.json" => |_, metadata| config::generation(metadata),
        "tokenizer.json" => |_, metadata| tokenizer::tokenizer(metadata),
        "tokenizer_config.json" => |_, metadata| tokenizer::tokenizer_config(metadata),
        _ => return Ok(None),
    };
    let file = GgufFile::open(path)?;
    if name.starts_with("tokenizer") && !file.metadata().contains_key(tokenizer::MODEL) {
        return Ok(None);
    }
    Ok(Some(of(&file, &Metadata::of(&file)?)?.to_string().into_bytes()))
}
