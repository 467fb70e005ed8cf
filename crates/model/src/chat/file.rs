//! Where a model keeps its template.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::{ChatTemplate, TemplateError};
use crate::companion::read_companion;
use crate::generation_config::GenerationConfig;
use crate::tokenizer::Tokenizer;

/// Largest file that is read, in bytes; templates have a few thousand.
const MAX_BYTES: u64 = 4 << 20;

/// The template of a model: `given`, or the directory's `chat_template.jinja`, or the one in its
/// `tokenizer_config.json`; none where there is none.
///
/// # Errors
/// A file that cannot be read or understood.
pub fn template_of(
    directory: &Path,
    given: Option<&Path>,
    tokenizer: &Tokenizer,
    generation: &GenerationConfig,
) -> Result<Option<ChatTemplate>, TemplateError> {
    let config = read_if_there(&directory.join("tokenizer_config.json"))?;
    let path = directory.join("tokenizer_config.json");
    let config: Value = match config {
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| TemplateError::File { path: path.clone(), reason: error.to_string() })?,
        None => Value::Null,
    };
    let source = match given {
        Some(given) => Some(read(given)?),
        None => match read_if_there(&directory.join("chat_template.jinja"))? {
            Some(source) => Some(source),
            None => in_config(&config["chat_template"])
                .map_err(|reason| TemplateError::File { path, reason: reason.to_owned() })?,
        },
    };
    let spelling = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let named = |name: &str| {
        let token = &config[name];
        token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
    };
    let bos = named("bos_token").or_else(|| spelling(generation.bos_token_id));
    let eos = named("eos_token").or_else(|| spelling(generation.eos_token_ids.first().copied()));
    source.map(|source| ChatTemplate::new(source, bos, eos)).transpose()
}

/// A template as a text, or the one called `default` of several.
fn in_config(template: &Value) -> Result<Option<String>, &'static str> {
    match template {
        Value::Null => Ok(None),
        Value::String(source) => Ok(Some(source.clone())),
        Value::Array(several) => {
            let default = several.iter().find(|one| one["name"] == "default");
            match default.and_then(|one| one["template"].as_str()) {
                Some(source) => Ok(Some(source.to_owned())),
                None => Err("chat_template is a list without one called default"),
            }
        }
        _ => Err("chat_template is neither a text nor a list of named texts"),
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, TemplateError> {
    let refused = |reason: String| TemplateError::File { path: path.to_path_buf(), reason };
    let bytes = read_companion(path, MAX_BYTES).map_err(|error| refused(error.to_string()))?;
    bytes.map(|bytes| String::from_utf8(bytes).map_err(|error| refused(error.to_string()))).transpose()
}

fn read(path: &Path) -> Result<String, TemplateError> {
    let missing = || TemplateError::Io { path: path.to_path_buf(), source: ErrorKind::NotFound.into() };
    read_if_there(path)?.ok_or_else(missing)
}
