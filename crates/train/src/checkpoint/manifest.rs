//! `state.json`: what a saved state holds.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::TrainError;

/// The file that lists the others of a state.
pub const MANIFEST: &str = "state.json";
/// The version that is written, and the newest that is read.
pub const STATE_VERSION: u64 = 1;
const FORMAT: &str = "dropcap-training-state";

/// The content of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: String,
    pub(crate) version: u64,
    /// Steps that have been taken.
    pub(crate) step: u64,
    /// The digest of the configuration.
    pub(crate) config: String,
    /// The fingerprint of the model that the run started from.
    pub(crate) model: String,
    /// Small values of the caller's.
    pub(crate) extra: Value,
    pub(crate) files: Vec<ListedFile>,
}

/// One file of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Manifest {
    pub(crate) fn new(
        step: u64,
        config: String,
        model: String,
        extra: Value,
        files: Vec<ListedFile>,
    ) -> Self {
        Self { format: FORMAT.to_owned(), version: STATE_VERSION, step, config, model, extra, files }
    }

    /// Reads the file of a folder; a later version is told from damage before anything else is read.
    pub(crate) fn read(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(MANIFEST);
        let damaged = |reason: String| TrainError::DamagedState { path: folder.to_path_buf(), reason };
        let bytes = std::fs::read(&path).map_err(|e| damaged(format!("cannot read {MANIFEST}: {e}")))?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|e| damaged(format!("{MANIFEST} is not whole: {e}")))?;
        if value.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(damaged(format!("{MANIFEST} has no format {FORMAT}")));
        }
        match value.get("version").and_then(Value::as_u64) {
            Some(found) if found > STATE_VERSION => {
                return Err(TrainError::NewerFormat { path, found, known: STATE_VERSION });
            }
            Some(1..) => {}
            _ => return Err(damaged(format!("{MANIFEST} has no version"))),
        }
        serde_json::from_value(value).map_err(|e| damaged(format!("{MANIFEST}: {e}")))
    }
}
