//! The small model that the command carries, so that it runs where no model and no network is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use dropcap_files::partial_path;

/// The files of `models/default` of the project, as `dropcap train` wrote them.
const FILES: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../../models/default/config.json")),
    ("tokenizer.json", include_bytes!("../../../models/default/tokenizer.json")),
    ("chat_template.jinja", include_bytes!("../../../models/default/chat_template.jinja")),
    ("pruning.safetensors", include_bytes!("../../../models/default/pruning.safetensors")),
    ("model.safetensors", include_bytes!("../../../models/default/model.safetensors")),
];

/// What it was trained to be run with.
pub const METHOD: &str = "dcp";

/// Unpacks the model into the user's cache, once, and gives its directory; where there is no such place, into that of
/// temporary files.
///
/// Another version of the command has another model and so another directory.
pub fn directory() -> Result<PathBuf> {
    let name = format!("default-{:016x}", digest());
    let first = cache().map(|cache| unpacked(cache.join("dropcap").join(&name)));
    match first {
        Some(Ok(folder)) => Ok(folder),
        _ => unpacked(std::env::temp_dir().join("dropcap").join(&name)),
    }
}

fn unpacked(folder: PathBuf) -> Result<PathBuf> {
    if is_whole(&folder) {
        return Ok(folder);
    }
    let partial = partial_path(&folder);
    let attempt = unpack(&partial, &folder);
    // Another process may have been faster; whatever is left of this attempt is of no use.
    let _ = fs::remove_dir_all(&partial);
    if is_whole(&folder) {
        return Ok(folder);
    }
    attempt.with_context(|| format!("cannot unpack the default model to {}", folder.display()))?;
    Ok(folder)
}

fn unpack(partial: &Path, folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(partial)?;
    FILES.iter().try_for_each(|(name, bytes)| fs::write(partial.join(name), bytes))?;
    // A folder that has files in it is not replaced: it is another process's, or was damaged by somebody.
    if fs::rename(partial, folder).is_ok() || is_whole(folder) {
        return Ok(());
    }
    let damaged = partial_path(folder);
    fs::rename(folder, &damaged)?;
    fs::rename(partial, folder)?;
    fs::remove_dir_all(damaged)
}

fn is_whole(folder: &Path) -> bool {
    FILES.iter().all(|(name, bytes)| fs::read(folder.join(name)).is_ok_and(|found| found == *bytes))
}

/// Where programs of this user may leave files that can be made again.
pub fn cache() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || Some(variable("HOME")?.join(".cache"));
    variable("XDG_CACHE_HOME").or_else(home)
}

/// FNV-1a over all bytes: names a version, guards nothing.
fn digest() -> u64 {
    let bytes = FILES.iter().flat_map(|(_, bytes)| bytes.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_start_at_once_never_take_the_model_from_each_other() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("default");
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let unpacked = unpacked(folder.clone()).unwrap();
                    assert!(is_whole(&unpacked));
                });
            }
        });
        fs::write(folder.join("config.json"), "damaged").unwrap();
        assert!(is_whole(&unpacked(folder.clone()).unwrap()));
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "nothing else is left");
    }
}
