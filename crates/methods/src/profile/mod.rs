//! Files that say what the heads of a model do: how much each of them looks far back.

mod heads;
mod read;
mod write;

use std::path::{Path, PathBuf};

use dropcap_weights::Fingerprint;

use crate::{MethodError, ModelFacts};

pub use write::{MeasuredHeads, ProfileKind};

/// What our own files say of their format.
const FORMAT: &str = "dropcap-head-profile";
/// The version of our own files that is written and read.
pub const PROFILE_VERSION: u32 = 1;

/// How much each head of a model looks far back, the larger the more, from a file:
///
/// - our own, which [`MeasuredHeads::write`] writes and which names the model that it was measured on;
/// - DuoAttention's `full_attention_heads.tsv`: a line per layer from the embedding on, a number per KV head, tabs between them;
/// - Retrieval Head's JSON: one object, `"layer-head"` of QUERY heads to the scores of all trials, whose mean counts.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadProfile {
    path: PathBuf,
    layers: Vec<Vec<f64>>,
    model: Option<Fingerprint>,
}

impl HeadProfile {
    /// Reads a file of any kind; one that begins with a brace is JSON.
    ///
    /// # Errors
    /// A file that cannot be read or is larger than any profile; a number that is none, a head that is missing, named twice or
    /// out of order: with the file, the line and what was expected there. One of ours of another version.
    pub fn read(path: &Path) -> Result<Self, MethodError> {
        let (layers, model) = read::layers(path)?;
        Ok(Self { path: path.to_owned(), layers, model })
    }

    /// The scores, `[L][heads]`: KV heads, or query heads where the file tells these apart.
    #[must_use]
    pub fn layers(&self) -> &[Vec<f64>] {
        &self.layers
    }

    /// The scores per KV head, `[L][g]`, of a model: query heads that share one count by their mean.
    ///
    /// # Errors
    /// A profile of a model of another shape; one that says it was measured on another model, unless nothing is known of this
    /// one's weights.
    pub fn of_kv_heads(&self, facts: &ModelFacts) -> Result<Vec<Vec<f64>>, MethodError> {
        let (layers, kv_heads) = (facts.layers, facts.kv_heads);
        let heads = self.layers.first().map_or(0, Vec::len);
        if self.layers.len() != layers || kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(MethodError::ProfileShape {
                path: self.path.clone(),
                got: (self.layers.len(), heads),
                expected: (layers, kv_heads),
            });
        }
        if let (Some(expected), Some(found)) = (&facts.fingerprint, &self.model) {
            let differences = expected.differences(found);
            if !differences.is_empty() {
                return Err(MethodError::ProfileFingerprint { path: self.path.clone(), differences });
            }
        }
        let group = heads / kv_heads;
        let mean = |group: &[f64]| group.iter().sum::<f64>() / group.len() as f64;
        Ok(self.layers.iter().map(|heads| heads.chunks_exact(group).map(mean).collect()).collect())
    }
}

#[cfg(test)]
mod tests;
