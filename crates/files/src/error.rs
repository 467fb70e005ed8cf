//! Why a file was not written, or a name not followed.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Why a file was not written, or a name not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused an operation.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The disk, or the user's share of it, is full.
    #[error("cannot write {}: the disk is full; what was there before is intact", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
    },
    /// Something stands under the name that nothing can be written to.
    #[error("cannot write {}: it is a {kind}; name a file, a pipe or a character device", path.display())]
    NotAFile {
        /// The path given.
        path: PathBuf,
        /// What stands there.
        kind: &'static str,
    },
    /// A file stands under the name and was not to be replaced.
    #[error("{} exists and is not replaced: give another name, or say that it may be", path.display())]
    Exists {
        /// The path given.
        path: PathBuf,
    },
    /// A file name that leads out of its directory.
    #[error("{name} leads out of {}: name a file inside that directory (links are followed only within it, or into the blobs of its hub cache)", dir.display())]
    LeavesDirectory {
        /// The directory.
        dir: PathBuf,
        /// The name found, quoted.
        name: String,
    },
}

impl FileError {
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { op, path: path.to_path_buf(), source }
    }

    /// Wraps a refusal to write; a full disk gets its own words.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull { path: path.to_path_buf() },
            _ => Self::io("write", path, source),
        }
    }
}
