//! The families: each maps its `config.json` to a [`DecoderConfig`] and its tensor names to a [`WeightPlan`].

mod gpt2;
mod llama;
mod llama_layout;
mod mistral;
mod qwen2;
mod qwen3;
mod sliding;

use std::fmt;

use crate::config_json::ConfigJson;
use crate::decoder_config::DecoderConfig;
use crate::error::ModelError;
use crate::weight_plan::WeightPlan;

/// The families of models that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// GPT-2.
    Gpt2,
    /// Llama 1, 2 and 3.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3.
    Qwen3,
}

/// Tells whether a tensor of a name is stored.
pub(crate) type Has<'a> = &'a dyn Fn(&str) -> bool;

/// What distinguishes a family: names, and the two mappings.
struct Mapping {
    family: Family,
    model_type: &'static str,
    architecture: &'static str,
    read: fn(&ConfigJson) -> Result<DecoderConfig, ModelError>,
    plan: fn(&DecoderConfig, Has<'_>) -> WeightPlan,
}

/// One row per family, in the order of the enum.
const FAMILIES: [Mapping; 5] =
    [gpt2::MAPPING, llama::MAPPING, mistral::MAPPING, qwen2::MAPPING, qwen3::MAPPING];

impl Family {
    /// The family that a config names by `model_type` or, without one, by `architectures`.
    pub(crate) fn of(json: &ConfigJson) -> Result<Self, ModelError> {
        let architectures = json.texts("architectures")?.unwrap_or_default();
        let unsupported =
            |got: String| ModelError::UnsupportedArchitecture { path: json.path().to_path_buf(), got };
        let named = match json.text("model_type")? {
            Some(kind) => FAMILIES
                .iter()
                .find(|row| row.model_type == kind)
                .ok_or_else(|| unsupported(format!("model_type {kind:?}")))?,
            None => FAMILIES
                .iter()
                .find(|row| architectures.contains(&row.architecture))
                .ok_or_else(|| unsupported(format!("architectures {architectures:?} and no model_type")))?,
        };
        // Bare trunks and classifiers share the model_type, and have no head to generate with.
        if architectures.is_empty() || architectures.contains(&named.architecture) {
            Ok(named.family)
        } else {
            Err(unsupported(format!("architectures {architectures:?}")))
        }
    }

    /// The name that `config.json` gives to the family as `model_type`.
    pub fn name(self) -> &'static str {
        self.mapping().model_type
    }

    /// Reads the rest of a config of this family.
    pub(crate) fn read(self, json: &ConfigJson) -> Result<DecoderConfig, ModelError> {
        (self.mapping().read)(json)
    }

    /// Says which tensors a decoder of this config is made of; `has` tells whether a tensor is stored.
    pub(crate) fn plan(self, config: &DecoderConfig, has: Has<'_>) -> WeightPlan {
        (self.mapping().plan)(config, has)
    }

    /// The families with their architectures, for messages.
    pub(crate) fn list() -> String {
        FAMILIES.map(|row| format!("{} ({})", row.model_type, row.architecture)).join(", ")
    }

    fn mapping(self) -> &'static Mapping {
        &FAMILIES[self as usize]
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_families_stand_in_the_order_of_the_enum() {
        for (at, row) in FAMILIES.iter().enumerate() {
            assert_eq!(row.family as usize, at);
        }
    }
}
