//! What lies beside the weights of a result, for our own programs and for those of others.

use std::path::Path;

use dropcap_model::{MAX_POSITIONS, TOKENIZER_FILES, read_companion};
use serde_json::{Map, Value, json};

use super::Trainer;
use crate::TrainError;
use crate::disk::{LocalDisk, publish};

const GENERATION: &str = "generation_config.json";
/// Longest file that is taken along, in bytes: the longest tokenizer that is read.
const LONGEST: u64 = 256 << 20;

/// Reads a file that lies beside the weights of a model, or in the metadata of a GGUF file.
///
/// # Errors
/// No such file; one that cannot be read.
pub(super) fn companion(path: &Path) -> Result<Vec<u8>, TrainError> {
    let missing = || TrainError::io("open", path, std::io::ErrorKind::NotFound.into());
    read_companion(path, LONGEST)?.ok_or_else(missing)
}

impl Trainer {
    /// Writes the tokenizer with what belongs to it, and where a generation begins and ends.
    ///
    /// Without a `tokenizer_config.json`, `transformers` takes the tokenizer class of the model's family, which need
    /// not be able to read this `tokenizer.json`; so one is written that names the class that reads any.
    pub(super) fn write_companions(&self, folder: &Path) -> Result<(), TrainError> {
        let tokenizer = self.source.tokenizer_file();
        let write =
            |name: &str, bytes: &[u8]| publish(&LocalDisk, &folder.join(name), |file| file.write_all(bytes));
        write("tokenizer.json", &companion(tokenizer)?)?;
        for name in TOKENIZER_FILES.into_iter().filter(|name| *name != "tokenizer.json") {
            if let Some(bytes) = read_companion(&tokenizer.with_file_name(name), LONGEST)? {
                write(name, &bytes)?;
            }
        }
        let config = folder.join("tokenizer_config.json");
        if !config.exists() {
            write_json(&config, &self.tokenizer_config())?;
        }
        let Some(generation) = self.source.directory().map(|source| source.join(GENERATION)) else {
            return Ok(());
        };
        if let Some(text) = read_companion(&generation, LONGEST)? {
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
