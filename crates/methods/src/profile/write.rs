//! Our own format.

use std::path::Path;

use dropcap_files::{Existing, publish};
use dropcap_weights::Fingerprint;
use serde_json::{Value, json};

use super::{FORMAT, PROFILE_VERSION};
use crate::MethodError;

/// What was measured of heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileKind {
    /// How much of what was asked for each query head copied (Wu et al. 2024, arXiv 2404.15574).
    Retrieval,
    /// How little of each KV head's attention lies near, for its mean query and key (NVIDIA/kvpress).
    Duo,
    /// How much of its full attention each KV head needs, learned (Xiao et al. 2024, arXiv 2410.10819).
    DuoGates,
}

impl ProfileKind {
    /// All of them under the command's names.
    pub const ALL: [(&'static str, Self); 3] =
        [("retrieval", Self::Retrieval), ("duo", Self::Duo), ("duo_gates", Self::DuoGates)];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|known| known.1 == self).map_or("", |known| known.0)
    }
}

/// Scores of heads as they were measured.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredHeads {
    /// What was measured.
    pub kind: ProfileKind,
    /// The model that it was measured on, as people name it.
    pub name: String,
    /// The same for the reader, who refuses another; none where nobody knows.
    pub model: Option<Fingerprint>,
    /// How it was measured, for people.
    pub made: Value,
    /// `[L][heads][trials]`, of query heads for [`ProfileKind::Retrieval`] and of KV heads for the others; every head has a trial.
    pub trials: Vec<Vec<Vec<f64>>>,
}

impl MeasuredHeads {
    /// The mean of each head's trials, `[L][heads]`: what a reader makes of them.
    #[must_use]
    pub fn means(&self) -> Vec<Vec<f64>> {
        let mean = |trials: &Vec<f64>| trials.iter().sum::<f64>() / trials.len().max(1) as f64;
        self.trials.iter().map(|heads| heads.iter().map(mean).collect()).collect()
    }

    /// The text of its file: one JSON object, a head on each line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![
            format!("{{\"format\": {}", json!(FORMAT)),
            format!("\"version\": {PROFILE_VERSION}"),
            format!("\"kind\": {}", json!(self.kind.name())),
            format!("\"name\": {}", json!(self.name)),
        ];
        lines.extend(self.model.iter().map(|model| format!("\"model\": {}", json!(model.to_string()))));
        lines.push(format!("\"made\": {}", self.made));
        let place = |layer: usize, heads: &[Vec<f64>]| -> Vec<String> {
            heads
                .iter()
                .enumerate()
                .map(|(head, trials)| format!("\"{layer}-{head}\": {}", json!(trials)))
                .collect()
        };
        let heads = self.trials.iter().enumerate().flat_map(|(layer, heads)| place(layer, heads));
        lines.push(format!("\"heads\": {{\n{}\n}}}}\n", heads.collect::<Vec<_>>().join(",\n")));
        lines.join(",\n")
    }

    /// Writes the file, whole or not at all; one of that name is replaced.
    ///
    /// # Errors
    /// A refusal of the operating system, with the file.
    pub fn write(&self, path: &Path) -> Result<(), MethodError> {
        publish(path, Existing::Replace, |out| out.write_all(self.text().as_bytes()))
            .map_err(MethodError::ProfileUnwritten)
    }
}
