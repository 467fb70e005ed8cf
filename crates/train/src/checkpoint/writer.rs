//! Writing one state, invisible until it is whole.

use std::io::{self, Write};
use std::path::PathBuf;

use dropcap_weights::{NewTensor, NewTensorFile};
use serde_json::Value;

use super::manifest::{ListedFile, MANIFEST, Manifest};
use super::run::RunDirectory;
use crate::TrainError;
use crate::digest::{Digest, Measured};
use crate::disk::partial_path;

/// What a state says about itself.
#[derive(Debug, Clone, PartialEq)]
pub struct StateFacts {
    /// Steps that have been taken.
    pub step: u64,
    /// The digest of the configuration, see [`crate::config::Config::digest`].
    pub config: Digest,
    /// The fingerprint of the model that the run started from, as text.
    pub model: String,
    /// Small values that go into `state.json`.
    pub extra: Value,
}

/// A state that is being written; dropped before it is published, it leaves nothing behind.
#[derive(Debug)]
pub struct StateWriter<'a> {
    run: &'a RunDirectory,
    facts: StateFacts,
    folder: PathBuf,
    partial: PathBuf,
    files: Vec<ListedFile>,
    published: bool,
}

impl<'a> StateWriter<'a> {
    pub(super) fn new(run: &'a RunDirectory, facts: StateFacts) -> Result<Self, TrainError> {
        let folder = run.folder_of_step(facts.step);
        if folder.exists() {
            return Err(TrainError::AlreadySaved { path: folder });
        }
        let partial = partial_path(&folder);
        run.disk().create_folder(&partial).map_err(|e| TrainError::write(&partial, e))?;
        Ok(Self { run, facts, folder, partial, files: Vec::new(), published: false })
    }

    /// Writes a safetensors file; the tensors are streamed from where they lie.
    ///
    /// # Errors
    /// A tensor whose bytes do not fit its shape, or a name given twice; a refusal of the disk.
    pub fn tensors(&mut self, name: &str, tensors: &[NewTensor<'_>]) -> Result<(), TrainError> {
        let layout = NewTensorFile::new(tensors, &[("format", "pt")])?;
        self.write(name, |file| layout.write(file))
    }

    /// Writes a file of any content.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        self.write(name, |file| file.write_all(bytes))
    }

    /// Makes the state visible, then removes the oldest states so that `keep` are left (at least this one).
    ///
    /// # Errors
    /// A refusal of the disk; the state that was the latest before is still there then.
    pub fn publish(mut self, keep: usize) -> Result<PathBuf, TrainError> {
        let StateFacts { step, config, model, extra } = self.facts.clone();
        let manifest = Manifest::new(step, config.to_string(), model, extra, std::mem::take(&mut self.files));
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| TrainError::io("write", &self.partial, io::Error::other(e)))?;
        self.file(MANIFEST, &text)?;
        let disk = self.run.disk();
        disk.settle(&self.partial)
            .and_then(|()| disk.rename(&self.partial, &self.folder))
            .map_err(|e| TrainError::write(&self.folder, e))?;
        self.published = true;
        self.run.point_to(&self.folder)?;
        self.run.keep_newest(keep)?;
        Ok(self.folder.clone())
    }

    fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), TrainError> {
        let path = self.partial.join(name);
        let attempt = || {
            let mut file = Measured::new(self.run.disk().create(&path, None)?);
            write(&mut file)?;
            let (mut file, bytes, digest) = file.finish();
            file.settle()?;
            Ok(ListedFile { name: name.to_owned(), bytes, sha256: digest.to_string() })
        };
        let listed = attempt().map_err(|e| TrainError::write(&self.folder.join(name), e))?;
        self.files.push(listed);
        Ok(())
    }
}

impl Drop for StateWriter<'_> {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is removed when the directory is next opened.
            let _ = self.run.disk().remove_folder(&self.partial);
        }
    }
}
