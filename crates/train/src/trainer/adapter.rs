//! What a training beside a held model begins with, and what it leaves: factors, gates, or both.

use std::path::Path;

use dropcap_model::{Adapter, Checkpoint, NewAdapter, WeightPlan, module};
use dropcap_weights::{Fingerprint, NewTensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Uniform};

use super::{Source, Trainer};
use crate::TrainError;
use crate::config::{Config, Lora, Trained};
use crate::network::{FactorForm, GateForm, Group, Layout, Slot};

/// The layout of what a configuration trains, behind what it holds.
pub(super) fn layout(
    config: &Config,
    source: &Source,
    gates: Option<GateForm>,
) -> Result<Layout, TrainError> {
    let layout = Layout::new(source.config(), source.plan(), gates);
    Ok(match config.train {
        Trained::All => layout,
        Trained::Gates => layout.holding_weights(),
        Trained::Lora => layout.with_factors(&factor_form(config, source)?, source.plan()),
    })
}

/// The factors of `train: lora` for this model.
///
/// # Errors
/// A target that is no module of the model.
pub(super) fn factor_form(config: &Config, source: &Source) -> Result<FactorForm, TrainError> {
    let lora = config.lora.clone().unwrap_or_default();
    let targets = targets(&lora, source.plan())?;
    Ok(FactorForm { rank: lora.rank, scale: (lora.alpha / lora.rank as f64) as f32, targets })
}

/// The stored weights whose modules' names end with one of the targets, by whole words.
fn targets(lora: &Lora, plan: &WeightPlan) -> Result<Vec<String>, TrainError> {
    let ends = |name: &str, end: &str| {
        name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let parts = || plan.products().flat_map(|matrix| &matrix.parts);
    let means = |target: &str, tensor: &str| ends(&module(plan, tensor), target);
    let unknown = |target: &&String| !parts().any(|part| means(target, &part.tensor));
    let problems: Vec<String> = lora
        .targets
        .iter()
        .filter(unknown)
        .map(|target| {
            let mut names: Vec<String> = parts()
                .map(|part| module(plan, &part.tensor).rsplit('.').next().unwrap_or_default().to_owned())
                .collect();
            names.sort();
            names.dedup();
            format!("lora.targets names {target:?}, and the model's linear layers are {}", names.join(", "))
        })
        .collect();
    if !problems.is_empty() {
        let origin = "the configuration does not fit the model".to_owned();
        return Err(TrainError::Config { origin, problems });
    }
    let wanted =
        |tensor: &str| lora.targets.is_empty() || lora.targets.iter().any(|target| means(target, tensor));
    Ok(parts().filter(|part| wanted(&part.tensor)).map(|part| part.tensor.clone()).collect())
}

/// Draws A uniformly within 1 / sqrt(inputs) and leaves B zero, as PEFT does: the model starts as its base.
pub(super) fn draw_factors(layout: &Layout, seed: u64, values: &mut [f32]) -> Result<(), TrainError> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // Apart from what draws a model's weights and its gates.
    random.set_stream(2);
    for slot in layout.slots().iter().filter(|slot| slot.group == Group::Factors) {
        if let ([_, inputs], true) = (&slot.shape[..], slot.name.ends_with(".lora_A.weight")) {
            let bound = 1.0 / (*inputs as f32).sqrt();
            let uniform = Uniform::new(-bound, bound)
                .map_err(|error| TrainError::Internal { what: error.to_string() })?;
            values[slot.range.clone()].fill_with(|| uniform.sample(&mut random));
        }
    }
    Ok(())
}

impl Trainer {
    /// The trained tensors of a group, of `values` `[layout.trained()]`.
    pub(super) fn trained<'a>(&self, group: Group, values: &'a [f32]) -> Vec<NewTensor<'a>> {
        let slots = self.backend.layout().trained_slots().into_iter().filter(|slot| slot.group == group);
        slots.map(|Slot { name, shape, range, .. }| NewTensor::f32(name, &shape, &values[range])).collect()
    }

    /// Writes the factors, if there are any, in PEFT's layout.
    pub(super) fn write_factors(&self, folder: &Path, values: &[f32]) -> Result<(), TrainError> {
        let Some(lora) = &self.config.lora else { return Ok(()) };
        let new = NewAdapter {
            rank: lora.rank,
            alpha: lora.alpha,
            targets: &targets(lora, self.source.plan())?,
            base_name: &self.base_name(),
            base: &self.source.fingerprint()?,
            factors: &self.trained(Group::Factors, values),
        };
        Ok(new.save(self.source.plan(), folder)?)
    }

    /// Which model the result in a folder is, once its weights or factors are written: what gates must name.
    pub(super) fn fingerprint_of(&self, folder: &Path) -> Result<Fingerprint, TrainError> {
        Ok(match (self.config.train, self.source.directory()) {
            (Trained::Lora, Some(base)) => {
                Checkpoint::open(base)?.with_adapter(Adapter::open(folder)?)?.fingerprint()?
            }
            (Trained::Gates, _) => self.source.fingerprint()?,
            _ => Checkpoint::open(folder)?.fingerprint()?,
        })
    }
}
