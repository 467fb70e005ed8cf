//! What a method needs to know about the model that it will prune.

use std::path::{Path, PathBuf};

use dropcap_weights::Fingerprint;

/// The facts of one model, as far as methods care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFacts {
    /// Number of layers.
    pub layers: usize,
    /// Hidden size c.
    pub hidden: usize,
    /// KV heads g.
    pub kv_heads: usize,
    /// Head width d.
    pub head_dim: usize,
    /// The model family, as config.json names it.
    pub family: String,
    /// What gate files must have been trained for.
    pub fingerprint: Fingerprint,
    /// The model's folder: where relative paths start and where gates lie by default. `None` for a model that
    /// has no folder; relative paths then start at the working directory.
    pub directory: Option<PathBuf>,
}

impl ModelFacts {
    /// Where a path in a spec points.
    #[must_use]
    pub fn resolve(&self, path: &str) -> PathBuf {
        match &self.directory {
            Some(directory) => directory.join(path),
            None => Path::new(path).to_owned(),
        }
    }
}
