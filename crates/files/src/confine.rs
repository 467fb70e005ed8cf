//! File names from elsewhere that stay inside one directory.

use std::path::{Path, PathBuf};

use crate::FileError;

/// Most bytes of a name, with the folders before it.
const LONGEST: usize = 255;

/// Whether a name from elsewhere, joined to a directory, means something inside it on any system: relative, of plain
/// parts, without control characters. Links are another matter: see [`confine`].
pub fn stays_inside(name: &str) -> bool {
    name.len() <= LONGEST
        && !name.chars().any(|c| c.is_control() || "\\:".contains(c))
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// The file that `name` means inside `dir`, or an error if the name leads out of it.
///
/// The name must be as [`stays_inside`] demands. Links are followed when they end inside the directory, or, for a
/// snapshot of a hub cache (`.../snapshots/REVISION`), inside the `blobs` beside `snapshots`. The file need not exist.
///
/// # Errors
/// [`FileError::LeavesDirectory`]; [`FileError::Io`] when `dir` itself cannot be resolved.
pub fn confine(dir: &Path, name: &str) -> Result<PathBuf, FileError> {
    let outside = || FileError::LeavesDirectory { dir: dir.to_path_buf(), name: quoted(name) };
    if !stays_inside(name) {
        return Err(outside());
    }
    let path = dir.join(name);
    let home = dir.canonicalize().map_err(|error| FileError::io("open", dir, error))?;
    // A path that does not resolve is a missing file, which the caller reports by its role.
    let Ok(real) = path.canonicalize() else { return Ok(path) };
    if real.starts_with(&home) || blobs_of(&home).is_some_and(|blobs| real.starts_with(blobs)) {
        Ok(path)
    } else {
        Err(outside())
    }
}

/// The blobs that the links of a hub cache's snapshot point to.
fn blobs_of(home: &Path) -> Option<PathBuf> {
    let snapshots = home.ancestors().skip(1).find(|dir| dir.file_name().is_some_and(|n| n == "snapshots"))?;
    snapshots.parent()?.join("blobs").canonicalize().ok()
}

/// A name as it may stand in a message: quoted, escaped, and cut when it is long.
fn quoted(name: &str) -> String {
    match name.char_indices().nth(120) {
        Some((cut, _)) => format!("{:?}... ({} bytes)", &name[..cut], name.len()),
        None => format!("{name:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_name_never_leaves_its_directory() {
        for good in ["model-00001-of-00002.safetensors", "part/a.safetensors", ".hidden", "ä b"] {
            assert!(stays_inside(good));
        }
        let long = "x".repeat(256);
        for bad in [
            "",
            "..",
            "../x",
            "/etc/x",
            "a/../../x",
            "./x",
            "a//x",
            "a/",
            "C:\\x",
            "..\\x",
            "x\n",
            "x\0",
            &long,
        ] {
            assert!(!stays_inside(bad), "{bad:?} was accepted");
        }
    }

    #[test]
    fn links_are_followed_within_the_directory_and_into_the_blobs_of_its_cache_alone() {
        let cache = tempfile::tempdir().unwrap();
        let home = cache.path().join("snapshots/0123");
        fs::create_dir_all(&home).unwrap();
        fs::create_dir_all(cache.path().join("blobs")).unwrap();
        for file in ["secret", "blobs/blob", "snapshots/0123/own"] {
            fs::write(cache.path().join(file), "").unwrap();
        }
        symlink("own", home.join("to_own")).unwrap();
        symlink("../../blobs/blob", home.join("to_blob")).unwrap();
        symlink("../../secret", home.join("to_secret")).unwrap();
        symlink("../..", home.join("up")).unwrap();
        for good in ["own", "to_own", "to_blob", "missing"] {
            assert_eq!(confine(&home, good).unwrap(), home.join(good));
        }
        for bad in ["to_secret", "up/secret", "../../secret"] {
            assert!(matches!(confine(&home, bad), Err(FileError::LeavesDirectory { .. })), "{bad}");
        }
    }
}
