//! What lies beside the weights of a result, for our own programs and for those of others.

use std::path::Path;

use dropcap_model::{MAX_POSITIONS, TOKENIZER_FILES};
use serde_json::{Map, Value, json};

use super::Trainer;
use crate::TrainError;
use crate::disk::{LocalDisk, publish};

const GENERATION: &str = "generation_config.json";

impl Trainer {
    /// Writes the tokenizer with what belongs to it, and where a generation begins and ends.
    ///
    /// Without a `tokenizer_config.json`, `transformers` takes the tokenizer class of the model's family, which need
    /// not be able to read this `tokenizer.json`; so one is written that names the class that reads any.
    pub(super) fn write_companions(&self, folder: &Path) -> Result<(), TrainError> {
        let tokenizer = self.source.tokenizer_file();
        copy(tokenizer, &folder.join("tokenizer.json"))?;
        for name in TOKENIZER_FILES {
            let file = tokenizer.with_file_name(name);
            if name != "tokenizer.json" && file.exists() {
                copy(&file, &folder.join(name))?;
            }
        }
        let config = folder.join("tokenizer_config.json");
        if !config.exists() {
            write_json(&config, &self.tokenizer_config())?;
        }
        let Some(generation) = self.source.directory().map(|source| source.join(GENERATION)) else {
            return Ok(());
        };
        if generation.exists() {
            let text =
                std::fs::read(&generation).map_err(|error| TrainError::io("read", &generation, error))?;
            let mut json: Value = serde_json::from_slice(&text).map_err(|error| TrainError::Data {
                path: generation.clone(),
                reason: format!("is no JSON: {error}"),
            })?;
            self.name_end(&mut json);
            write_json(&folder.join(GENERATION), &json)?;
        }
        Ok(())
    }

    /// Adds the token that documents ended with to those that end a generation, where it is not among them.
    pub(super) fn name_end(&self, json: &mut Value) {
        let (Value::Object(entries), Some(stop)) = (json, self.source.borders().stop()) else { return };
        let stops = self.source.stops();
        if !stops.contains(&stop) {
            let ids: Vec<u32> = stops.iter().copied().chain([stop]).collect();
            let ids = if let [only] = ids[..] { json!(only) } else { json!(ids) };
            entries.insert("eos_token_id".into(), ids);
        }
    }

    fn tokenizer_config(&self) -> Value {
        let (tokenizer, borders) = (self.source.tokenizer(), self.source.borders());
        let mut config = Map::new();
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        let positions = self.source.config().max_positions;
        if positions < MAX_POSITIONS {
            config.insert("model_max_length".into(), positions.into());
        }
        let stop = borders.stop();
        let begin = borders.begin.first().copied().or(stop);
        for (name, id) in [("bos_token", begin), ("eos_token", stop)] {
            if let Some(token) = id.and_then(|id| tokenizer.token(id)) {
                config.insert(name.into(), token.into());
            }
        }
        Value::Object(config)
    }
}

/// Writes a file of JSON: whole, or not at all.
pub(super) fn write_json(path: &Path, json: &Value) -> Result<(), TrainError> {
    publish(&LocalDisk, path, |file| writeln!(file, "{json:#}"))
}

fn copy(from: &Path, to: &Path) -> Result<(), TrainError> {
    let bytes = std::fs::read(from).map_err(|error| TrainError::io("read", from, error))?;
    publish(&LocalDisk, to, |file| file.write_all(&bytes))
}
