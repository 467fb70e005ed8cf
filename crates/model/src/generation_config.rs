//! `generation_config.json`: where a generation begins and ends.

use std::path::Path;

use crate::config_json::ConfigJson;
use crate::decoder_config::DecoderConfig;
use crate::error::ModelError;

/// The tokens that begin and end a generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GenerationConfig {
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text; any of them.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads the `generation_config.json` of a directory over what the model's config says.
    ///
    /// As in `transformers`, what it states replaces the config's value; what it leaves out, or the whole file
    /// when it is absent, leaves the config's value. Ids outside the vocabulary are left out.
    ///
    /// # Errors
    /// A file that is there and is not a JSON object, or whose ids are not ids.
    pub fn open(directory: &Path, config: &DecoderConfig) -> Result<Self, ModelError> {
        match ConfigJson::open(&directory.join("generation_config.json"))? {
            Some(json) => Self::read(&json, config),
            None => Ok(Self::of(config)),
        }
    }

    /// Reads the text of a `generation_config.json`; `path` is only for messages.
    ///
    /// # Errors
    /// As [`GenerationConfig::open`].
    pub fn parse(path: &Path, text: &[u8], config: &DecoderConfig) -> Result<Self, ModelError> {
        Self::read(&ConfigJson::parse(path, text)?, config)
    }

    fn of(config: &DecoderConfig) -> Self {
        Self { bos_token_id: config.bos_token_id, eos_token_ids: config.eos_token_ids.clone() }
    }

    fn read(json: &ConfigJson, config: &DecoderConfig) -> Result<Self, ModelError> {
        let of = Self::of(config);
        let stated = |key: &str| -> Result<Option<Vec<u32>>, ModelError> {
            let mut ids = json.token_ids(key)?;
            if let Some(ids) = &mut ids {
                ids.retain(|&id| (id as usize) < config.vocabulary);
            }
            Ok(ids)
        };
        Ok(Self {
            bos_token_id: stated("bos_token_id")?.map_or(of.bos_token_id, |ids| ids.first().copied()),
            eos_token_ids: stated("eos_token_id")?.unwrap_or(of.eos_token_ids),
        })
    }
}
