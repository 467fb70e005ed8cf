//! A checkpoint written out again, with what is merged in: whole, for every program that reads Hugging Face's layout.

use std::path::Path;

use dropcap_files::{Existing, publish};
use dropcap_kernels::{DType, Team, TensorBytes};
use dropcap_weights::{SINGLE_FILE, tensor_header};
use half::{bf16, f16};
use serde_json::Value;

use super::Checkpoint;
use crate::ModelError;
use crate::companion::read_companion;
use crate::tokenizer::MAX_FILE_BYTES;
use crate::weights::{StoredAs, first_outside, stored_type};

/// Files that belong to a tokenizer and are copied with it, where they are there.
pub const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
];
const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

/// Numbers that are in memory at a time.
const SLICE: usize = 1 << 22;

impl Checkpoint {
    /// Writes the model as it is read, an adapter merged in, into a folder that is there: `config.json`,
    /// `model.safetensors`, and the tokenizer and generation settings that lie beside it.
    ///
    /// Every tensor keeps its name, and its format where none is given. The bytes are those to which the merged numbers,
    /// which are f32, round; so where no format is given, a merged checkpoint computes what its base with the adapter
    /// computes, to the bit, if both are held in the stored format.
    ///
    /// # Errors
    /// A number that the format cannot hold; a file that became unreadable; a refusal of the disk.
    pub fn write(&self, team: &Team, folder: &Path, dtype: Option<DType>) -> Result<(), ModelError> {
        self.write_config(folder, dtype)?;
        self.write_weights(team, &folder.join(SINGLE_FILE), dtype)?;
        for name in TOKENIZER_FILES.into_iter().chain([GENERATION]) {
            let from = self.directory.join(name);
            if let Some(bytes) = read_companion(&from, MAX_FILE_BYTES)? {
                publish(&folder.join(name), Existing::Replace, |file| file.write_all(&bytes))?;
            }
        }
        Ok(())
    }

    fn write_config(&self, folder: &Path, dtype: Option<DType>) -> Result<(), ModelError> {
        let from = self.directory.join(CONFIG);
        let missing = || ModelError::NoConfig { path: from.clone() };
        let mut bytes = read_companion(&from, MAX_FILE_BYTES)?.ok_or_else(missing)?;
        if let Some(dtype) = dtype {
            let mut json = serde_json::from_slice(&bytes)
                .map_err(|error| ModelError::Json { path: from, reason: error.to_string() })?;
            name_dtype(&mut json, dtype);
            bytes = format!("{json:#}\n").into_bytes();
        }
        Ok(publish(&folder.join(CONFIG), Existing::Replace, |file| file.write_all(&bytes))?)
    }

    fn write_weights(&self, team: &Team, path: &Path, dtype: Option<DType>) -> Result<(), ModelError> {
        let mut tensors = Vec::new();
        for tensor in self.plan.tensors() {
            let stored = self.tensors.info(tensor.name).and_then(|info| info.stored).map(StoredAs::dtype);
            tensors.push((tensor.name, dtype.or(stored).unwrap_or(DType::F32), tensor.shape));
        }
        // Wide formats first, so that all numbers are aligned.
        tensors.sort_by_key(|&(name, dtype, _)| (std::cmp::Reverse(dtype.bytes()), name));
        let entries = tensors.iter().map(|(name, dtype, shape)| (*name, stored_type(*dtype), &**shape));
        let header = tensor_header(entries, &[("format", "pt")])?;
        let mut refused = None;
        let published = publish(path, Existing::Replace, |file| {
            file.write_all(&header)?;
            for (name, dtype, shape) in &tensors {
                let rows = shape.first().copied().unwrap_or(1);
                let step = (SLICE * rows / shape.iter().product::<usize>().max(1)).max(1);
                for first in (0..rows).step_by(step) {
                    match self.narrowed(team, name, first..rows.min(first + step), *dtype) {
                        Ok(bytes) => file.write_all(&bytes)?,
                        Err(error) => {
                            refused = Some(error);
                            return Err(std::io::Error::other("the weights could not be read"));
                        }
                    }
                }
            }
            Ok(())
        });
        match refused {
            Some(error) => Err(error),
            None => Ok(published?),
        }
    }

    /// Some rows of a tensor as the bytes of a format.
    fn narrowed(
        &self,
        team: &Team,
        tensor: &str,
        rows: std::ops::Range<usize>,
        target: DType,
    ) -> Result<Vec<u8>, ModelError> {
        let (mut bytes, first) = (Vec::new(), rows.start);
        let (count, dtype) = (rows.len(), self.read_rows(tensor, rows, &mut bytes)?);
        let width = bytes.len() / dtype.bytes() / count.max(1);
        if let Some((at, value)) = first_outside(team, TensorBytes { dtype, bytes: &bytes }, target) {
            return Err(self.outside(tensor, first * width + at, value, target));
        }
        if dtype == target {
            return Ok(bytes);
        }
        let values = stored_type(dtype).widen(&bytes).unwrap_or_default();
        Ok(match target {
            DType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            DType::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        })
    }
}

/// Says in a `config.json` how its weights are stored.
pub fn name_dtype(json: &mut Value, dtype: DType) {
    let name = match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
    };
    if let Value::Object(entries) = json {
        entries.remove("dtype");
        entries.insert("torch_dtype".into(), name.into());
    }
}
