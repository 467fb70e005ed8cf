//! The few operations that change a disk, behind a trait so that tests can make each of them fail.

use std::fmt::Debug;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};

/// A disk as a writer needs it.
pub trait Disk: Debug + Send + Sync {
    /// Opens a new, empty file for writing; a name that is taken is [`ErrorKind::AlreadyExists`].
    ///
    /// With the facts of a file that it is to replace, it gets that file's rights and, where the system allows it, its
    /// owner; else 0666 less the umask.
    fn create(&self, path: &Path, like: Option<&Metadata>) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a folder and those above it.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Gives a file or a folder another name, in one step; a file of that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file another name, in one step; a name that is taken is [`ErrorKind::AlreadyExists`].
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
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
    fn create(&self, path: &Path, like: Option<&Metadata>) -> io::Result<Box<dyn DiskFile>> {
        let mut options = File::options();
        options.write(true).create_new(true);
        let Some(old) = like else { return Ok(Box::new(options.open(path)?)) };
        // Never set-user-id: the new bytes are not what was trusted. Nobody else reads it before its owner is known.
        let mode = old.mode() & 0o777;
        let file = options.mode(mode & 0o700).open(path)?;
        // Only root may give files away; anybody else's replacement is his own.
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(Box::new(file))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// By a second link, or where there are none by a flag of the renaming, which network file systems lack.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match fs::hard_link(from, to) {
            Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
                Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
            }
            linked => linked.and_then(|()| fs::remove_file(from)),
        }
    }

    /// A file system that cannot is left as it is.
    fn settle(&self, folder: &Path) -> io::Result<()> {
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Err(error) if cannot_settle(error.kind()) => Ok(()),
            settled => settled,
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let facts = statvfs(folder)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }
}

/// Folders that may be written but not read, and file systems without this operation.
fn cannot_settle(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported)
}
