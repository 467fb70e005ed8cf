//! Reading a state.

use std::path::{Path, PathBuf};

use dropcap_weights::TensorFile;
use serde_json::Value;

use super::manifest::Manifest;
use crate::TrainError;
use crate::digest::Digest;

/// A state whose files are all there, of the lengths and digests that were written.
#[derive(Debug)]
pub struct SavedState {
    folder: PathBuf,
    manifest: Manifest,
}

impl SavedState {
    /// Opens the folder of a state and checks every byte of it.
    ///
    /// # Errors
    /// [`TrainError::DamagedState`] with the first thing that is wrong; [`TrainError::NewerFormat`] for a state of a
    /// later version.
    pub fn open(folder: &Path) -> Result<Self, TrainError> {
        let manifest = Manifest::read(folder)?;
        let damaged = |reason: String| TrainError::DamagedState { path: folder.to_path_buf(), reason };
        for listed in &manifest.files {
            let name = &listed.name;
            if name.contains(['/', '\\']) || name.starts_with('.') {
                return Err(damaged(format!("it lists {name:?}, which is no plain file name")));
            }
            let path = folder.join(name);
            let found = match std::fs::metadata(&path) {
                Ok(facts) => facts.len(),
                Err(error) => return Err(damaged(format!("{name}: {error}"))),
            };
            if found != listed.bytes {
                return Err(damaged(format!("{name} has {found} bytes, expected {}", listed.bytes)));
            }
            let digest = Digest::of_file(&path).map_err(|error| damaged(error.to_string()))?;
            if digest.to_string() != listed.sha256 {
                return Err(damaged(format!("{name} has other bytes than were written")));
            }
        }
        Ok(Self { folder: folder.to_path_buf(), manifest })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Steps that had been taken.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// The digest of the run's configuration, as text.
    pub fn config(&self) -> &str {
        &self.manifest.config
    }

    /// The fingerprint of the model that the run started from, as text.
    pub fn model(&self) -> &str {
        &self.manifest.model
    }

    /// The small values that the writer left.
    pub fn extra(&self) -> &Value {
        &self.manifest.extra
    }

    /// Opens one of its safetensors files.
    ///
    /// # Errors
    /// A file that is not part of the state, or no safetensors file.
    pub fn tensors(&self, name: &str) -> Result<TensorFile, TrainError> {
        Ok(TensorFile::open(&self.path(name)?)?)
    }

    /// Where one of its files lies.
    ///
    /// # Errors
    /// A file that is not part of the state.
    pub fn path(&self, name: &str) -> Result<PathBuf, TrainError> {
        if self.manifest.files.iter().any(|listed| listed.name == name) {
            return Ok(self.folder.join(name));
        }
        let reason = format!("it has no file {name}");
        Err(TrainError::DamagedState { path: self.folder.clone(), reason })
    }
}
