//! How a run changes its disk.

use std::io::{self, Write};
use std::path::Path;

pub use dropcap_files::{Disk, DiskFile, LocalDisk};
use dropcap_files::{Existing, FileError, publish_on};
pub(crate) use dropcap_files::{PARTIAL, partial_path};

use crate::TrainError;

/// Writes a file of a run, in the place of the one before it; see [`dropcap_files::publish`].
///
/// # Errors
/// As [`dropcap_files::publish`]; a file of that name stays as it was.
pub fn publish(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), TrainError> {
    publish_on(disk, path, Existing::Replace, write).map_err(|error| match error {
        FileError::DiskFull { path } => TrainError::DiskFull { path },
        other => TrainError::File(other),
    })
}
