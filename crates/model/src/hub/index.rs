//! The names of the shards in `model.safetensors.index.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::HubError;
use super::weights::INDEX;

/// The index of a model of a hundred thousand tensors is about 10 MB.
const LARGEST_INDEX: u64 = 64 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads which shards the index in `folder` names; each stays inside `folder`.
pub(super) fn shards(folder: &Path) -> Result<BTreeSet<String>, HubError> {
    let path = folder.join(INDEX);
    let bad = |reason: String| HubError::BadIndex { file: INDEX.to_owned(), reason };
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(HubError::cache("read", &path))?;
    file.take(LARGEST_INDEX + 1).read_to_end(&mut bytes).map_err(HubError::cache("read", &path))?;
    if bytes.len() as u64 > LARGEST_INDEX {
        return Err(bad(format!("it is larger than {LARGEST_INDEX} bytes")));
    }
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    if shards.is_empty() {
        return Err(bad("its weight_map is empty".to_owned()));
    }
    if let Some(shard) = shards.iter().find(|shard| !stays_inside(shard)) {
        return Err(HubError::UnsafeShard {
            file: INDEX.to_owned(),
            shard: shard.chars().take(200).collect(),
        });
    }
    Ok(shards)
}

/// Whether a name from elsewhere is a safetensors file at or below the directory it is joined to, on any
/// system.
fn stays_inside(name: &str) -> bool {
    name.ends_with(".safetensors")
        && name.len() <= 255
        && !name.chars().any(|c| c.is_control() || "\\:".contains(c))
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_never_leaves_the_directory() {
        for good in ["model-00001-of-00002.safetensors", "part/a.safetensors"] {
            assert!(stays_inside(good));
        }
        for bad in [
            "../x.safetensors",
            "/etc/x.safetensors",
            "a/../../x.safetensors",
            "./x.safetensors",
            "a//x.safetensors",
            "C:\\x.safetensors",
            "..\\x.safetensors",
            "x.bin",
            "",
            "x\n.safetensors",
        ] {
            assert!(!stays_inside(bad), "{bad:?} was accepted");
        }
    }
}
