//! An adapter directory as PEFT's `save_pretrained` lays it out.

use std::collections::BTreeSet;
use std::path::Path;

use dropcap_files::{Existing, publish};
use dropcap_kernels::Orientation;
use dropcap_weights::{Fingerprint, NewTensor, NewTensorFile};
use serde_json::json;

use super::{BASE, CONFIG, WEIGHTS, module};
use crate::error::ModelError;
use crate::weight_plan::WeightPlan;

/// A LoRA adapter that is to be written: factors of one rank and one scale.
#[derive(Debug)]
pub struct NewAdapter<'a> {
    /// Inner width r of all factors.
    pub rank: usize,
    /// The products are multiplied by alpha / r.
    pub alpha: f64,
    /// The stored weights that have factors.
    pub targets: &'a [String],
    /// What the base is called: a hub id, or a directory.
    pub base_name: &'a str,
    /// Which model it is.
    pub base: &'a Fingerprint,
    /// The factors, named by [`super::peft_factor`].
    pub factors: &'a [NewTensor<'a>],
}

impl NewAdapter<'_> {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` into a folder that is there, each whole or not at all.
    ///
    /// # Errors
    /// A factor whose bytes do not fit its shape; a refusal of the disk.
    pub fn save(&self, plan: &WeightPlan, folder: &Path) -> Result<(), ModelError> {
        let metadata = [("format", "pt"), (BASE, &*self.base.to_string())];
        let file = NewTensorFile::new(self.factors, &metadata)?;
        publish(&folder.join(WEIGHTS), Existing::Replace, |out| file.write(out))?;
        let turned = plan.products().flat_map(|matrix| &matrix.parts).any(|part| {
            part.orientation == Orientation::InputsByOutputs && self.targets.contains(&part.tensor)
        });
        let config = json!({
            "alpha_pattern": {},
            "base_model_name_or_path": self.base_name,
            "bias": "none",
            "fan_in_fan_out": turned,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_alpha": self.alpha,
            "lora_dropout": 0.0,
            "modules_to_save": null,
            "peft_type": "LORA",
            "r": self.rank,
            "rank_pattern": {},
            "target_modules": shortest_names(plan, self.targets),
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": false,
        });
        Ok(publish(&folder.join(CONFIG), Existing::Replace, |out| writeln!(out, "{config:#}"))?)
    }
}

/// The shortest ends of modules' names that mean the targets and nothing else: `q_proj` where every layer has one.
fn shortest_names(plan: &WeightPlan, targets: &[String]) -> BTreeSet<String> {
    let parts = plan.products().flat_map(|matrix| &matrix.parts);
    let modules: Vec<(String, bool)> =
        parts.map(|part| (module(plan, &part.tensor), targets.contains(&part.tensor))).collect();
    let ends = |name: &str, end: &str| {
        name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let means_only_targets = |end: &&str| modules.iter().all(|(name, wanted)| *wanted || !ends(name, end));
    let shortest = |name: &str| -> String {
        let starts = name.rmatch_indices('.').map(|(at, _)| at + 1).chain([0]);
        starts.map(|start| &name[start..]).find(means_only_targets).unwrap_or(name).to_owned()
    };
    modules.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| shortest(name)).collect()
}
