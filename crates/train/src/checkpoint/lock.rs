//! One process per run directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::TrainError;

/// Held as long as it lives; the operating system takes it back from a process that dies.
#[derive(Debug)]
pub(crate) struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of a directory.
    pub(crate) fn take(directory: &Path) -> Result<Self, TrainError> {
        let path = directory.join("lock");
        let failed = |e| TrainError::io("lock", &path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        Self::try_take(directory, &mut file)?;
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(|e| TrainError::write(&path, e))?;
        Ok(Self { _file: file })
    }

    /// Refuses a directory that another process works in; changes nothing.
    pub(crate) fn check(directory: &Path) -> Result<(), TrainError> {
        match File::open(directory.join("lock")) {
            Ok(mut file) => Self::try_take(directory, &mut file),
            // A directory without the file has never had a run.
            Err(_) => Ok(()),
        }
    }

    /// Locks the open file of a directory, until it is closed.
    fn try_take(directory: &Path, file: &mut File) -> Result<(), TrainError> {
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // A number that cannot be read is only left out of the message.
                let _ = file.take(32).read_to_string(&mut text);
                Err(TrainError::Locked { path: directory.to_path_buf(), pid: text.trim().parse().ok() })
            }
            Err(TryLockError::Error(error)) => Err(TrainError::io("lock", &directory.join("lock"), error)),
        }
    }
}
