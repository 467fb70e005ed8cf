//! The first line of a trace: who ran, and the bounds of everything that follows.

use serde::{Deserialize, Serialize};

/// The version of the format that is written, and the newest that is read. The second one brought scores of votes.
pub const VERSION: u32 = 2;

/// What one cache entry stands for: one death is a death for the whole layer, or for one KV head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// All KV heads of a layer share an entry: deaths carry no head.
    Layer,
    /// Every KV head has entries of its own: deaths carry the head.
    KvHead,
}

/// What ran, and the bounds that every later line keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceHeader {
    /// Version of the format: [`VERSION`], or an earlier one.
    pub version: u32,
    /// The model, in words: a name or a path as the user gave it.
    pub model: String,
    /// The method's spec, as it would be given again to repeat the run.
    pub method: String,
    /// Layers of the model, at least 1.
    pub layers: usize,
    /// KV heads (g) of a layer, at least 1.
    pub kv_heads: usize,
    /// What one entry stands for.
    pub granularity: Granularity,
    /// Number of token ids (v), at least 1.
    pub vocabulary: usize,
}

impl TraceHeader {
    /// Lanes of one layer: 1, or g when every KV head has entries of its own.
    pub fn groups(&self) -> usize {
        match self.granularity {
            Granularity::Layer => 1,
            Granularity::KvHead => self.kv_heads,
        }
    }
}
