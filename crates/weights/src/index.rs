//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::WeightsError;
use crate::header::{MAX_TENSORS, UniqueStrings};

/// Longest index that is read, in bytes.
const MAX_INDEX_BYTES: u64 = 32 << 20;

#[derive(Deserialize)]
struct RawIndex {
    /// Sizes that published indexes often get wrong; nothing here depends on them.
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    weight_map: UniqueStrings,
}

/// Reads the map from tensor name to shard name.
pub(crate) fn read_index(path: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    let file = std::fs::File::open(path).map_err(|e| WeightsError::io("open", path, e))?;
    let mut bytes = Vec::new();
    // One byte past the limit shows that there is more.
    file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| WeightsError::io("read", path, e))?;
    let refuse = |reason: String| WeightsError::Index { path: path.to_path_buf(), reason };
    if bytes.len() as u64 > MAX_INDEX_BYTES {
        return Err(refuse(format!("it is longer than the limit of {MAX_INDEX_BYTES} bytes")));
    }
    parse_index(&bytes).map_err(refuse)
}

/// The same from bytes; the error is the reason alone.
pub(crate) fn parse_index(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let map = serde_json::from_slice::<RawIndex>(bytes).map_err(|e| e.to_string())?.weight_map.0;
    if map.is_empty() {
        return Err("its weight_map is empty".into());
    }
    if map.len() > MAX_TENSORS {
        return Err(format!("it lists {} tensors, and the limit is {MAX_TENSORS}", map.len()));
    }
    Ok(map)
}
