//! Names of what is not finished yet.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// Begins the names of what is not finished yet; whatever has such a name and no living writer may be deleted.
pub const PARTIAL: &str = ".partial-";

/// Most bytes of the final name that a partial name repeats: names are limited to 255 bytes.
const REPEATED: usize = 160;

/// A name beside `path`, on the same file system, that no reader looks for and that this process gives out once.
pub fn partial_path(path: &Path) -> PathBuf {
    partial_in(folder_of(path), path)
}

/// [`partial_path`] in another folder.
pub(crate) fn partial_in(folder: &Path, path: &Path) -> PathBuf {
    static GIVEN: AtomicU64 = AtomicU64::new(0);
    let number = GIVEN.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let repeated = &name[..name.floor_char_boundary(REPEATED)];
    folder.join(format!("{PARTIAL}{}-{number}-{repeated}", process::id()))
}

/// The folder that holds `path`.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_names_are_unique_and_never_too_long() {
        let long = format!("folder/{}", "ä".repeat(127));
        for path in ["file", "a/b.txt", &long] {
            let (one, two) = (partial_path(path.as_ref()), partial_path(path.as_ref()));
            assert_ne!(one, two);
            assert_eq!(folder_of(&one), folder_of(path.as_ref()));
            assert!(one.file_name().unwrap().len() <= 255);
        }
    }
}
