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
    /// What gate files must have been trained for; `None` takes those of any model whose shapes fit.
    pub fingerprint: Option<Fingerprint>,
    /// The model's folder, where gates lie by default. `None` for a model that has no folder.
    pub directory: Option<PathBuf>,
}

impl ModelFacts {
    /// Where a path in a spec points: from the working directory, or, where nothing is there, from the model's
    /// folder.
    #[must_use]
    pub fn resolve(&self, path: &str) -> PathBuf {
        let here = Path::new(path);
        match &self.directory {
            Some(directory) if !here.exists() => directory.join(path),
            _ => here.to_owned(),
        }
    }
}
