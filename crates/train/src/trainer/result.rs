//! The directory that a run leaves behind: a checkpoint that `generate` takes as it is, or an adapter that it lays over the
//! model that was trained.

use std::path::{Path, PathBuf};

use dropcap_kernels::DType;
use dropcap_methods::{GATES_FILE, GateKind, Gates, LayerGates};
use dropcap_model::{name_dtype, stored_type};
use dropcap_policy::SettledFor;
use dropcap_weights::{NewTensor, NewTensorFile};
use half::{bf16, f16};

use super::companions::write_json;
use super::replace::replace_folder;
use super::{Evaluation, Pressure, Settled, Trainer};
use crate::TrainError;
use crate::config::{Config, Trained};
use crate::disk::{Disk, LocalDisk, partial_path, publish};
use crate::network::Group;

/// Where in a run's directory the result lies.
pub(super) fn folder_name(config: &Config) -> &'static str {
    if config.train == Trained::All { "model" } else { "adapter" }
}

/// A result that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// Its directory.
    pub folder: PathBuf,
    /// What was measured on it.
    pub evaluation: Evaluation,
    /// What its gates keep on the texts that their biases were settled on; `None` without such gates.
    pub settled: Option<Settled>,
}

impl Trainer {
    /// Rounds the weights as the result stores them, settles the gates' biases on them, measures that, and writes the
    /// result: `config.json`, weights, tokenizer, gates and model card in `model/` of the run's directory, or where the
    /// model was held factors, gates and model card in `adapter/`. What was there before is replaced as a whole, and
    /// until then it stays.
    ///
    /// # Errors
    /// A refusal of the disk; an earlier result stays then.
    pub fn finish(&mut self, output: &Path, command: &str) -> Result<Finished, TrainError> {
        let dtype = self.config.dtype.unwrap_or_else(|| self.source.stored_dtype());
        self.backend.complete(&mut *self.others)?;
        let trained = self.backend.export()?.values.into_owned();
        let mut values = trained.clone();
        let weights = self.backend.layout().group(Group::Weights);
        // Factors and gates are stored as they are.
        let stored = (self.config.train == Trained::All).then(|| narrow(dtype, &mut values[weights]));
        self.backend.load(&values, None)?;
        let settled = self.settle()?;
        self.share_pressure()?;
        let evaluation = self.evaluate()?;
        self.backend.load(&trained, None)?;

        let folder = output.join(folder_name(&self.config));
        if !self.others.world().is_first() {
            return Ok(Finished { folder, evaluation, settled });
        }
        let partial = partial_path(&folder);
        let disk = LocalDisk;
        if partial.exists() {
            disk.remove_folder(&partial).map_err(|error| TrainError::io("remove", &partial, error))?;
        }
        disk.create_folder(&partial).map_err(|error| TrainError::write(&partial, error))?;
        match &stored {
            Some(stored) => self.write_model(&partial, dtype, stored)?,
            None => self.write_factors(&partial, &values)?,
        }
        if let Some(gates) = self.exported_gates(&values)? {
            gates.save(&partial.join(GATES_FILE), &self.fingerprint_of(&partial)?)?;
        }
        self.card(command, &evaluation).write(&disk, &partial.join("README.md"))?;
        disk.settle(&partial).map_err(|error| TrainError::write(&partial, error))?;
        replace_folder(&disk, &partial, &folder)?;
        Ok(Finished { folder, evaluation, settled })
    }

    fn write_model(&self, folder: &Path, dtype: DType, stored: &[u8]) -> Result<(), TrainError> {
        let disk = LocalDisk;
        let mut json = self.source.json().clone();
        name_dtype(&mut json, dtype);
        self.name_end(&mut json);
        write_json(&folder.join("config.json"), &json)?;

        let width = dtype.bytes();
        let slots = self.backend.layout().slots().iter().filter(|slot| slot.group == Group::Weights);
        let tensors: Vec<NewTensor<'_>> = slots
            .map(|slot| NewTensor {
                name: slot.name.clone(),
                dtype: stored_type(dtype),
                shape: slot.shape.clone(),
                bytes: &stored[slot.range.start * width..slot.range.end * width],
            })
            .collect();
        let file = NewTensorFile::new(&tensors, &[("format", "pt")])?;
        publish(&disk, &folder.join("model.safetensors"), |out| file.write(out))?;

        self.write_companions(folder)
    }

    /// The gates of `values` `[layout.trained()]` as inference reads them: input scales multiplied in, shifts taken off
    /// the biases.
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
            let layout = self.backend.layout();
            let first = layout.trained().start;
            let read = |name: &str| {
                let range = layout.range(name)?;
                Ok::<_, TrainError>(values[range.start - first..range.end - first].to_vec())
            };
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
            let query = if form.kind.votes() { scaled(&query)? } else { Vec::new() };
            Ok(LayerGates { query, key: scaled(&key)?, bias })
        };
        let layers = (0..self.source.config().layers).map(layer).collect::<Result<_, _>>()?;
        let gates = match form.kind {
            GateKind::Votes => Gates::new(hidden, form.width, layers)?,
            GateKind::Birth => Gates::at_birth(hidden, layers)?,
        };
        let gates = gates.under(self.floors());
        let tokens = self.config.sequence_tokens(self.source.config().max_positions)?;
        Ok(Some(gates.settled_for(SettledFor { kv_dtype: Some(self.config.kv_dtype), tokens: Some(tokens) })))
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
