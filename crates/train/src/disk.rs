//! The few operations by which a run changes its disk, behind a trait so that tests can make each of them fail.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::TrainError;

/// A disk as a run needs it.
pub trait Disk: Debug + Send + Sync {
    /// Opens a new, empty file for writing.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a folder and those above it.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Gives a file or a folder another name, in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder outlive a power cut.
    fn settle(&self, folder: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all that is in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Bytes that may still be written to the file system of a folder.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
}

/// A file that is being written.
pub trait DiskFile: Write {
    /// Makes its bytes outlive a power cut.
    fn settle(&mut self) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalDisk;

impl DiskFile for File {
    fn settle(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Disk for LocalDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn settle(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(folder)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}

/// Begins the names of what is not finished yet; whatever has such a name may be deleted.
pub(crate) const PARTIAL: &str = ".partial-";

/// A name beside `path`, on the same file system, that no reader looks for.
pub(crate) fn partial_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{PARTIAL}{}-{name}", std::process::id()))
}

/// The folder that holds `path`.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file that appears under its name whole and on disk, or not at all.
///
/// # Errors
/// A refusal of the disk; a file of that name stays as it was.
pub fn publish(
    disk: &dyn Disk,
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), TrainError> {
    let partial = partial_path(path);
    let attempt = || {
        let mut file = disk.create(&partial)?;
        write(&mut file)?;
        file.settle()?;
        drop(file);
        disk.rename(&partial, path)?;
        disk.settle(folder_of(path))
    };
    attempt().map_err(|error| {
        // Best effort: the error worth reporting is the first one.
        let _ = disk.remove_file(&partial);
        TrainError::write(path, error)
    })
}

#[cfg(test)]
pub(crate) mod faulty;

#[cfg(test)]
mod tests {
    use super::faulty::{Fault, FaultyDisk};
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        for fault in [Fault::Killed, Fault::Full] {
            for allowed in 0.. {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("file");
                fs::write(&path, "old").unwrap();
                let disk = FaultyDisk::new(fault, allowed);
                let result = publish(&disk, &path, |file| file.write_all(b"new content"));
                let text = fs::read_to_string(&path).unwrap();
                assert!(text == "old" || text == "new content", "{text}");
                if result.is_ok() {
                    assert_eq!(text, "new content");
                    break;
                }
            }
        }
    }

    #[test]
    fn a_full_disk_is_called_full() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(Fault::Full, 1);
        let error = publish(&disk, &folder.path().join("file"), |file| file.write_all(b"new")).unwrap_err();
        assert!(matches!(error, TrainError::DiskFull { .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the partial file is gone");
    }
}
