//! The directory that a run leaves behind: a checkpoint that `generate` takes as it is.

use std::path::{Path, PathBuf};

use dropcap_kernels::DType;
use dropcap_methods::{Gates, LayerGates};
use dropcap_model::Checkpoint;
use dropcap_weights::{NewTensor, NewTensorFile, StoredType};
use half::{bf16, f16};
use serde_json::Value;

use super::companions::write_json;
use super::replace::replace_folder;
use super::{Evaluation, Pressure, Settled, Trainer};
use crate::TrainError;
use crate::disk::{Disk, LocalDisk, partial_path, publish};
use crate::network::Group;

/// Where in a run's directory the result lies.
pub(super) const FOLDER: &str = "model";
/// What `dcp` looks for in a model's folder.
const GATES: &str = "pruning.safetensors";
/// A result that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Its directory.
    pub model: PathBuf,
    /// What was measured on it.
    pub evaluation: Evaluation,
    /// What its gates keep on the texts that their biases were settled on; `None` without such gates.
    pub settled: Option<Settled>,
}

impl Trainer {
    /// Rounds the weights as the result stores them, settles the gates' biases on them, measures that, and writes the
    /// result: `config.json`, weights, tokenizer, gates and model card in `model/` of the run's directory. What was
    /// there before is replaced as a whole, and until then it stays.
    ///
    /// # Errors
    /// A refusal of the disk; an earlier result stays then.
    pub fn finish(&mut self, output: &Path, command: &str) -> Result<Finished, TrainError> {
        let dtype = self.config.dtype.unwrap_or_else(|| self.source.stored_dtype());
        let trained = self.backend.export()?.values.into_owned();
        let mut values = trained.clone();
        let weights = self.backend.layout().group(Group::Weights);
        let stored = narrow(dtype, &mut values[weights]);
        self.backend.load(&values, None)?;
        let settled = self.settle()?;
        let evaluation = self.evaluate()?;
        self.backend.load(&trained, None)?;

        let model = output.join(FOLDER);
        let partial = partial_path(&model);
        let disk = LocalDisk;
        if partial.exists() {
            disk.remove_folder(&partial).map_err(|error| TrainError::io("remove", &partial, error))?;
        }
        disk.create_folder(&partial).map_err(|error| TrainError::write(&partial, error))?;
        self.write_result(&partial, dtype, &stored, &values)?;
        self.card(command, &evaluation).write(&disk, &partial.join("README.md"))?;
        disk.settle(&partial).map_err(|error| TrainError::write(&partial, error))?;
        replace_folder(&disk, &partial, &model)?;
        Ok(Finished { model, evaluation, settled })
    }

    fn write_result(
        &self,
        folder: &Path,
        dtype: DType,
        stored: &[u8],
        values: &[f32],
    ) -> Result<(), TrainError> {
        let disk = LocalDisk;
        let mut json = self.source.json().clone();
        if let Value::Object(entries) = &mut json {
            let name = match dtype {
                DType::F32 => "float32",
                DType::F16 => "float16",
                DType::Bf16 => "bfloat16",
            };
            entries.remove("dtype");
            entries.insert("torch_dtype".into(), name.into());
        }
        self.name_end(&mut json);
        write_json(&folder.join("config.json"), &json)?;

        let state_type = match dtype {
            DType::F32 => StoredType::F32,
            DType::F16 => StoredType::F16,
            DType::Bf16 => StoredType::Bf16,
        };
        let width = dtype.bytes();
        let slots = self.backend.layout().slots().iter().filter(|slot| slot.group == Group::Weights);
        let tensors: Vec<NewTensor<'_>> = slots
            .map(|slot| NewTensor {
                name: slot.name.clone(),
                dtype: state_type,
                shape: slot.shape.clone(),
                bytes: &stored[slot.range.start * width..slot.range.end * width],
            })
            .collect();
        let file = NewTensorFile::new(&tensors, &[("format", "pt")])?;
        publish(&disk, &folder.join("model.safetensors"), |out| file.write(out))?;

        self.write_companions(folder)?;
        if let Some(gates) = self.exported_gates(values)? {
            gates.save(&folder.join(GATES), &Checkpoint::open(folder)?.fingerprint()?)?;
        }
        Ok(())
    }

    /// The gates as inference reads them: input scales multiplied in, shifts taken off the biases.
    ///
    /// # Errors
    /// None for the values of this network.
    pub(super) fn exported_gates(&self, values: &[f32]) -> Result<Option<Gates>, TrainError> {
        let Some(form) = self.gates else { return Ok(None) };
        let hidden = self.source.config().hidden;
        let shifts = match &self.pressure {
            Pressure::Controlled(controller) => controller.shifts(),
            _ => Vec::new(),
        };
        let layer = |layer: usize| -> Result<LayerGates, TrainError> {
            let [query, key, bias] = dropcap_methods::GateLayout::Dropcap.names(layer);
            let read = |name: &str| Ok::<_, TrainError>(values[self.backend.layout().range(name)?].to_vec());
            let scaled = |name: &str| {
                let mut map = read(name)?;
                if let Some(scale) = self.scales.get(layer) {
                    for row in map.chunks_exact_mut(hidden) {
                        row.iter_mut().zip(scale).for_each(|(weight, scale)| *weight *= scale);
                    }
                }
                Ok::<_, TrainError>(map)
            };
            let shift = shifts.get(layer).copied().unwrap_or_default();
            let bias = read(&bias)?.into_iter().map(|bias| bias - shift).collect();
            Ok(LayerGates { query: scaled(&query)?, key: scaled(&key)?, bias })
        };
        let layers = (0..self.source.config().layers).map(layer).collect::<Result<_, _>>()?;
        Ok(Some(Gates::new(hidden, form.width, layers)?.under(self.floors())))
    }
}

/// The bytes of the values as stored; the values become what those bytes say.
fn narrow(dtype: DType, values: &mut [f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => bytemuck::cast_slice(values).to_vec(),
        DType::F16 => {
            store(values, |value| f16::from_f32(value).to_bits(), |bits| f16::from_bits(bits).to_f32())
        }
        DType::Bf16 => {
            store(values, |value| bf16::from_f32(value).to_bits(), |bits| bf16::from_bits(bits).to_f32())
        }
    }
}

fn store(values: &mut [f32], narrow: impl Fn(f32) -> u16, widen: impl Fn(u16) -> f32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 2);
    for value in values {
        let bits = narrow(*value);
        *value = widen(bits);
        bytes.extend(bits.to_le_bytes());
    }
    bytes
}
