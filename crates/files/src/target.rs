//! What stands under a name that is to be written.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::{FileError, folder_of};

/// Links that are followed at most, as by Linux itself.
const MOST_LINKS: usize = 40;

/// What becomes of a regular file that stands under the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The new one takes its place, in one step, with its rights.
    Replace,
    /// It stays, and the writer is refused.
    Refuse,
}

/// Where bytes for a name go.
#[derive(Debug)]
pub(crate) enum Target {
    /// Under this name, which no link stands behind.
    New(PathBuf),
    /// In the place of this regular file.
    Old(PathBuf, Metadata),
    /// Into a pipe or a character device, which stays what it is.
    Stream,
}

impl Target {
    /// Follows the links of `path`; the last one may dangle.
    pub(crate) fn at(path: &Path, existing: Existing) -> Result<Self, FileError> {
        let failed = |source| FileError::write(path, source);
        let not_a_file = |kind| Err(FileError::NotAFile { path: path.to_path_buf(), kind });
        let facts = match fs::metadata(path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if path.as_os_str().as_bytes().ends_with(b"/") {
                    return not_a_file("folder's name");
                }
                return Ok(Self::New(end_of_links(path).map_err(failed)?));
            }
            Err(error) => return Err(failed(error)),
        };
        let kind = facts.file_type();
        match kind {
            _ if kind.is_fifo() || kind.is_char_device() => Ok(Self::Stream),
            _ if kind.is_dir() => not_a_file("directory"),
            _ if kind.is_socket() => not_a_file("socket"),
            _ if kind.is_block_device() => not_a_file("block device"),
            _ if existing == Existing::Refuse => Err(FileError::Exists { path: path.to_path_buf() }),
            _ => Ok(Self::Old(path.canonicalize().map_err(failed)?, facts)),
        }
    }
}

/// Refuses beforehand what [`crate::publish`] would refuse after the work is done: a name that is no file's, a file that
/// is not to be replaced, a folder that is missing or may not be written.
///
/// # Errors
/// As [`crate::publish`].
pub fn check(path: &Path, existing: Existing) -> Result<(), FileError> {
    let allowed = match Target::at(path, existing)? {
        Target::New(path) | Target::Old(path, _) => access(folder_of(&path), Access::WRITE_OK),
        Target::Stream => access(path, Access::WRITE_OK),
    };
    allowed.map_err(|error| FileError::write(path, error.into()))
}

fn end_of_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&path) {
            Ok(link) => path = folder_of(&path).join(link),
            // There is nothing, or something that is no link, which the next operation meets.
            Err(_) => return Ok(path),
        }
    }
    Err(Errno::LOOP.into())
}
