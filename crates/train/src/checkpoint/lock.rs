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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // A number that cannot be read is only left out of the message.
                let _ = (&mut file).take(32).read_to_string(&mut text);
                return Err(TrainError::Locked {
                    path: directory.to_path_buf(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(|e| TrainError::write(&path, e))?;
        Ok(Self { _file: file })
    }
}
