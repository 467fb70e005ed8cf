//! What a snapshot on disk lacks.

use std::fs;
use std::path::Path;

use dropcap_weights::{INDEX_FILE, ShardIndex};

use super::HubError;
use super::layout::RepoCache;
use super::weights::{OPTIONAL, REQUIRED, Weights, find};

/// The first file that `folder`, a snapshot of `model`, lacks; `None` if the model can be loaded from it.
///
/// A dangling link counts as missing, which is what it is.
pub(super) fn lacks(model: &str, folder: &Path) -> Result<Option<String>, HubError> {
    if let Some(file) = REQUIRED.iter().find(|file| !folder.join(file).is_file()) {
        return Ok(Some((*file).to_owned()));
    }
    let names = names(folder)?;
    let present = names.iter().map(String::as_str).filter(|name| folder.join(name).is_file());
    match find(model, present) {
        Ok(Weights::Single) => Ok(None),
        Ok(Weights::Sharded) => {
            let index = ShardIndex::open(&folder.join(INDEX_FILE))?;
            let lacking = index.shards().into_iter().find(|shard| !folder.join(shard).is_file());
            Ok(lacking.map(str::to_owned))
        }
        Err(HubError::NoWeights { .. }) => Ok(Some("model.safetensors (or its index)".to_owned())),
        Err(error) => Err(error),
    }
}

/// The names of what lies directly in `folder`.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, HubError> {
    let entries = fs::read_dir(folder).map_err(HubError::cache("read", folder))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Whether the snapshot of `commit` is whole and each optional file is either there or known not to exist, so
/// that the hub has nothing to add.
pub(super) fn is_settled(repo: &RepoCache, model: &str, commit: &str) -> bool {
    let folder = repo.snapshot(commit);
    let known = |file: &&str| folder.join(file).is_file() || repo.absent(commit, file).is_file();
    matches!(lacks(model, &folder), Ok(None)) && OPTIONAL.iter().all(known)
}
