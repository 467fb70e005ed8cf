//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use dropcap_files::stays_inside;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{WeightsError, quoted};
use crate::header::{MAX_TENSORS, UniqueStrings};

/// Longest index that is read, in bytes; one of a hundred thousand tensors has about 10 MB.
const MAX_INDEX_BYTES: u64 = 32 << 20;
/// Most shards that an index may name.
pub const MAX_SHARDS: usize = 1000;

#[derive(Deserialize)]
struct RawIndex {
    /// Sizes that published indexes often get wrong; nothing here depends on them.
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    weight_map: UniqueStrings,
}

/// The shard of every tensor of a model, as its index says; each shard's name stays inside the model's directory.
#[derive(Debug)]
pub struct ShardIndex {
    shard_of: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads an index.
    ///
    /// # Errors
    /// [`WeightsError::Index`]; [`WeightsError::TooManyShards`]; [`WeightsError::UnsafeShard`];
    /// [`WeightsError::Io`].
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let file = std::fs::File::open(path).map_err(|e| WeightsError::io("open", path, e))?;
        let mut bytes = Vec::new();
        // One byte past the limit shows that there is more.
        file.take(MAX_INDEX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| WeightsError::io("read", path, e))?;
        Self::parse(path, &bytes)
    }

    /// [`ShardIndex::open`] on bytes; `path` is for messages.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, WeightsError> {
        let refuse = |reason: String| WeightsError::Index { path: path.to_path_buf(), reason };
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(refuse(format!("it is longer than the limit of {MAX_INDEX_BYTES} bytes")));
        }
        let raw = serde_json::from_slice::<RawIndex>(bytes).map_err(|error| refuse(error.to_string()))?;
        let index = Self { shard_of: raw.weight_map.0 };
        if index.shard_of.is_empty() {
            return Err(refuse("its weight_map is empty".to_owned()));
        }
        let tensors = index.shard_of.len();
        if tensors > MAX_TENSORS {
            return Err(refuse(format!("it lists {tensors} tensors, and the limit is {MAX_TENSORS}")));
        }
        let shards = index.shards();
        if shards.len() > MAX_SHARDS {
            let (path, limit, got) = (path.to_path_buf(), MAX_SHARDS, shards.len());
            return Err(WeightsError::TooManyShards { path, limit, got });
        }
        let unsafe_shard = |shard: &&str| !stays_inside(shard) || !shard.ends_with(".safetensors");
        if let Some(shard) = shards.into_iter().find(unsafe_shard) {
            return Err(WeightsError::UnsafeShard { index: path.to_path_buf(), shard: quoted(shard) });
        }
        Ok(index)
    }

    /// Names of the shards, sorted, each once.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.shard_of.values().map(String::as_str).collect()
    }

    /// Every tensor with its shard, sorted by tensor.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &str)> {
        self.shard_of.iter().map(|(tensor, shard)| (tensor.as_str(), shard.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_safetensors_file_inside_the_directory() {
        let parse = |shard: &str| {
            let text = serde_json::json!({"weight_map": {"a": shard}}).to_string();
            ShardIndex::parse(Path::new("index"), text.as_bytes())
        };
        for good in ["model-00001-of-00002.safetensors", "part/a.safetensors"] {
            assert_eq!(parse(good).unwrap().shards(), BTreeSet::from([good]));
        }
        for bad in
            ["../x.safetensors", "/etc/x.safetensors", "..\\x.safetensors", "x.bin", "", "x\n.safetensors"]
        {
            let error = parse(bad).unwrap_err();
            assert!(matches!(error, WeightsError::UnsafeShard { .. }), "{bad:?}: {error}");
        }
    }
}
