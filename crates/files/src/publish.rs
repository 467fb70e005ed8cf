//! One way to write a file.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::partial::partial_in;
use crate::target::Target;
use crate::{Disk, DiskFile, Existing, FileError, LocalDisk, folder_of};

/// Partial names that are tried, should other machines on a shared disk have taken some.
const TRIES: usize = 100;

/// Writes a file that appears under its name whole and on disk, or not at all.
///
/// - The bytes go to a new file beside the target, which is synced and renamed; the folder is synced too.
/// - A file that is replaced hands on its rights, and its owner where the system allows; a new one has 0666 less the
///   umask. Other hard links of an old file keep its old bytes.
/// - A symbolic link stays, and its target is written, also where that does not exist yet.
/// - A pipe or a character device is written through and stays what it is, whatever `existing` says.
///
/// The file is not buffered.
///
/// # Errors
/// A directory, socket or block device under the name; a file where `existing` refuses it, also one that appeared
/// meanwhile; an error of `write`; a refusal of the operating system. A file of that name stays as it was.
pub fn publish(
    path: &Path,
    existing: Existing,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    put(&LocalDisk, None, path, existing, write)
}

/// [`publish`] with the unfinished file in `folder`, which is on the same file system, for places where others take
/// every file for a whole one.
///
/// # Errors
/// As [`publish`].
pub fn publish_from(
    folder: &Path,
    path: &Path,
    existing: Existing,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    put(&LocalDisk, Some(folder), path, existing, write)
}

/// [`publish`] on a disk of one's own.
///
/// # Errors
/// As [`publish`].
pub fn publish_on(
    disk: &dyn Disk,
    path: &Path,
    existing: Existing,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    put(disk, None, path, existing, write)
}

fn put(
    disk: &dyn Disk,
    aside: Option<&Path>,
    path: &Path,
    existing: Existing,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    let failed = |source| FileError::write(path, source);
    let (place, old) = match Target::at(path, existing)? {
        Target::New(place) => (place, None),
        Target::Old(place, facts) => (place, Some(facts)),
        Target::Stream => {
            let mut stream = File::options().write(true).open(path).map_err(failed)?;
            return write(&mut stream).and_then(|()| stream.flush()).map_err(failed);
        }
    };
    let (partial, file) =
        create(disk, aside.unwrap_or(folder_of(&place)), &place, old.as_ref()).map_err(failed)?;
    finish(disk, file, &partial, &place, existing, write).map_err(|error| {
        // Best effort: the error worth reporting is the first one.
        let _ = disk.remove_file(&partial);
        match error.kind() {
            ErrorKind::AlreadyExists if existing == Existing::Refuse => {
                FileError::Exists { path: path.to_path_buf() }
            }
            _ => failed(error),
        }
    })
}

fn create(
    disk: &dyn Disk,
    folder: &Path,
    place: &Path,
    like: Option<&Metadata>,
) -> io::Result<(PathBuf, Box<dyn DiskFile>)> {
    let mut taken = ErrorKind::AlreadyExists.into();
    for _ in 0..TRIES {
        let partial = partial_in(folder, place);
        match disk.create(&partial, like) {
            Ok(file) => return Ok((partial, file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => taken = error,
            Err(error) => {
                // It may have been made and then refused, such as its rights.
                let _ = disk.remove_file(&partial);
                return Err(error);
            }
        }
    }
    Err(taken)
}

fn finish(
    disk: &dyn Disk,
    mut file: Box<dyn DiskFile>,
    partial: &Path,
    place: &Path,
    existing: Existing,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    write(&mut file)?;
    file.flush()?;
    file.settle()?;
    drop(file);
    match existing {
        Existing::Replace => disk.rename(partial, place)?,
        Existing::Refuse => disk.rename_new(partial, place)?,
    }
    disk.settle(folder_of(place))
}

#[cfg(test)]
mod tests;
