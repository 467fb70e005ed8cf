//! A training's state on disk and back.

use dropcap_weights::{Fingerprint, NewTensor, TensorFile};
use serde_json::json;

use super::{Pressure, Source, Trainer};
use crate::TrainError;
use crate::backend::Parameters;
use crate::checkpoint::{RunDirectory, SavedState, StateFacts};
use crate::network::Slot;
use crate::select::Account;

const VALUES: &str = "model.safetensors";
const MOMENTS: &str = "optimizer.safetensors";
const REST: &str = "trainer.safetensors";

impl Trainer {
    /// Bytes that a saved state takes, about.
    #[must_use]
    pub fn state_bytes(&self) -> u64 {
        state_bytes(self.backend.layout().trained().len())
    }

    /// Saves everything that later steps depend on, and keeps the newest states only.
    ///
    /// # Errors
    /// A refusal of the disk; the last state that was published stays.
    pub fn save(&mut self, run: &RunDirectory) -> Result<std::path::PathBuf, TrainError> {
        let numbers: Vec<_> = self.accounts.iter().map(Account::numbers).collect();
        let facts = StateFacts {
            step: self.step,
            config: self.config.digest(),
            model: self.source.lineage()?,
            extra: json!({
                "updates": self.updates, "skipped": self.skipped, "chosen": numbers,
            }),
        };
        let mut writer = run.begin(facts, self.state_bytes())?;
        let slots = self.backend.layout().trained_slots();
        let Parameters { values, moments: [first, second] } = self.backend.export()?;
        writer.tensors(VALUES, &tensors(&slots, "", &values))?;
        let mut moments = tensors(&slots, "first.", &first);
        moments.extend(tensors(&slots, "second.", &second));
        writer.tensors(MOMENTS, &moments)?;

        let pressure = self.pressure.numbers();
        let mut rest = vec![NewTensor::f64("pressure", &[pressure.len()], &pressure)];
        for (layer, scale) in self.scales.iter().enumerate() {
            rest.push(NewTensor::f32(format!("scales.{layer}"), &[scale.len()], scale));
        }
        writer.tensors(REST, &rest)?;
        writer.publish(self.config.checkpoint.keep)
    }

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// A state of another model; a state that does not hold this network.
    pub fn restore(&mut self, state: &SavedState) -> Result<(), TrainError> {
        check_model(&self.source, state)?;
        let damaged =
            |reason: String| TrainError::DamagedState { path: state.folder().to_path_buf(), reason };
        let rest = state.tensors(REST)?;
        if !self.scales.is_empty() {
            let scales = (0..self.scales.len()).map(|layer| Ok(rest.read_f32(&format!("scales.{layer}"))?));
            self.scales = scales.collect::<Result<_, TrainError>>()?;
            self.backend.rescale(&self.scales)?;
        }
        self.pressure.restore(&doubles(&rest, "pressure")?).map_err(damaged)?;
        let files = [state.tensors(VALUES)?, state.tensors(MOMENTS)?];
        let layout = self.backend.layout();
        let array = |file: &TensorFile, prefix: &str| {
            let mut array = vec![0.0; layout.trained().len()];
            for slot in layout.trained_slots() {
                let name = format!("{prefix}{}", slot.name);
                let stored = file.read_f32(&name)?;
                if stored.len() != slot.range.len() {
                    let (expected, got) = (slot.range.len(), stored.len());
                    return Err(damaged(format!("{name} holds {got} numbers, expected {expected}")));
                }
                array[slot.range.clone()].copy_from_slice(&stored);
            }
            Ok(array)
        };
        let values = array(&files[0], "")?;
        let (first, second) = (array(&files[1], "first.")?, array(&files[1], "second.")?);
        self.backend.load(&values, Some([&first, &second]))?;
        let count = |key: &str| {
            state.extra()[key].as_u64().ok_or_else(|| damaged(format!("state.json does not say `{key}`")))
        };
        // A state of before examples were chosen has none.
        let chosen: Vec<_> = serde_json::from_value(state.extra()["chosen"].clone()).unwrap_or_default();
        for (account, numbers) in self.accounts.iter_mut().zip(chosen) {
            *account = Account::of_numbers(numbers);
        }
        (self.updates, self.skipped, self.step) = (count("updates")?, count("skipped")?, state.step());
        Ok(())
    }
}

/// Refuses a state of a run that started from another model.
pub(super) fn check_model(source: &Source, state: &SavedState) -> Result<(), TrainError> {
    let identity = source.lineage()?;
    if state.model() == identity {
        return Ok(());
    }
    let differences = model_differences(state.model(), &identity);
    Err(TrainError::AnotherRun { path: state.folder().to_path_buf(), differences })
}

/// Bytes of a state of so many parameters, about.
pub(super) fn state_bytes(parameters: usize) -> u64 {
    (parameters * 3 * size_of::<f32>() + (1 << 20)) as u64
}

/// What tells two models apart, field by field where both have a fingerprint.
fn model_differences(saved: &str, found: &str) -> Vec<String> {
    match (saved.parse::<Fingerprint>(), found.parse::<Fingerprint>()) {
        (Ok(saved), Ok(found)) => saved.differences(&found),
        _ => vec![format!("model: expected {saved}, found {found}")],
    }
}

/// The tensors of an array, with `prefix` before their names.
fn tensors<'a>(slots: &[Slot], prefix: &str, values: &'a [f32]) -> Vec<NewTensor<'a>> {
    let tensor = |slot: &Slot| {
        NewTensor::f32(format!("{prefix}{}", slot.name), &slot.shape, &values[slot.range.clone()])
    };
    slots.iter().map(tensor).collect()
}

fn doubles(file: &TensorFile, name: &str) -> Result<Vec<f64>, TrainError> {
    let mut bytes = Vec::new();
    file.read_bytes(name, &mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
}

impl Pressure {
    pub(super) fn numbers(&self) -> Vec<f64> {
        match self {
            Pressure::None => Vec::new(),
            Pressure::Gamma(gamma) => vec![*gamma],
            Pressure::Controlled(controller) => controller.numbers(),
        }
    }

    pub(super) fn restore(&mut self, numbers: &[f64]) -> Result<(), String> {
        let fits = match (self, numbers) {
            (Pressure::None, []) => true,
            (Pressure::Gamma(gamma), &[stored]) => {
                *gamma = stored;
                true
            }
            (Pressure::Controlled(controller), numbers) => controller.restore(numbers),
            _ => false,
        };
        if fits { Ok(()) } else { Err(format!("{} numbers of another kind of controller", numbers.len())) }
    }
}
