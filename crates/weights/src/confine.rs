//! File names that stay inside one model directory.

use std::path::{Component, Path, PathBuf};

use crate::error::{WeightsError, quoted};

/// The file that `name` means inside `dir`, or an error if the name leads out of it.
///
/// A name must be relative and without `..`. Links are followed when they end inside the directory, or, for a
/// snapshot of a hub cache (`.../snapshots/REVISION`), inside the `blobs` beside `snapshots`. The file need not
/// exist.
///
/// # Errors
/// [`WeightsError::LeavesDirectory`]; [`WeightsError::Io`] when `dir` itself cannot be resolved.
pub fn confine(dir: &Path, name: &str) -> Result<PathBuf, WeightsError> {
    let outside = || WeightsError::LeavesDirectory { dir: dir.to_path_buf(), path: quoted(name) };
    let relative = Path::new(name);
    let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || name.contains(['\\', '\0']) || !inside {
        return Err(outside());
    }
    let path = dir.join(relative);
    let home = dir.canonicalize().map_err(|e| WeightsError::io("open", dir, e))?;
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
