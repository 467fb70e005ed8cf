//! A disk that fails after so many operations.

use std::fs::Metadata;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{Disk, DiskFile, LocalDisk};

/// What happens at the operation that is not allowed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed: that operation is done by half, and none after it, tidying up included.
    Killed,
    /// The disk is full: nothing more can be written, but things can be renamed and removed.
    Full,
}

/// The local disk until `allowed` operations are used up.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    fault: Fault,
    allowed: Arc<AtomicUsize>,
    dead: Arc<AtomicBool>,
}

impl FaultyDisk {
    /// A disk on which `allowed` operations succeed before the fault.
    pub fn new(fault: Fault, allowed: usize) -> Self {
        Self { fault, allowed: Arc::new(AtomicUsize::new(allowed)), dead: Arc::default() }
    }

    /// Uses up one operation; the error is that of the fault.
    fn spend(&self, writes: bool) -> io::Result<()> {
        if self.fault == Fault::Full && !writes {
            return Ok(());
        }
        let left = self.allowed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| match self.fault {
            Fault::Killed => io::Error::other("killed"),
            Fault::Full => io::ErrorKind::StorageFull.into(),
        })
    }
}

impl FaultyDisk {
    /// [`FaultyDisk::spend`] for what cannot be done by half.
    fn spend_at_once(&self, writes: bool) -> io::Result<()> {
        self.spend(writes).inspect_err(|_| {
            self.strikes_now();
        })
    }

    /// Whether the fault strikes for the first time: a killed process does nothing more.
    fn strikes_now(&self) -> bool {
        self.fault == Fault::Full || !self.dead.swap(true, Ordering::SeqCst)
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    inner: Box<dyn DiskFile>,
}

impl Write for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.disk.spend(true) {
            if self.disk.strikes_now() {
                self.inner.write_all(&bytes[..bytes.len() / 2])?;
            }
            return Err(error);
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl DiskFile for FaultyFile {
    fn settle(&mut self) -> io::Result<()> {
        self.disk.spend_at_once(true)?;
        self.inner.settle()
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path, like: Option<&Metadata>) -> io::Result<Box<dyn DiskFile>> {
        self.spend_at_once(true)?;
        Ok(Box::new(FaultyFile { disk: self.clone(), inner: LocalDisk.create(path, like)? }))
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.spend_at_once(true)?;
        LocalDisk.create_folder(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.spend_at_once(false)?;
        LocalDisk.rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.spend_at_once(false)?;
        LocalDisk.rename_new(from, to)
    }

    fn settle(&self, folder: &Path) -> io::Result<()> {
        self.spend_at_once(false)?;
        LocalDisk.settle(folder)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.spend_at_once(false)?;
        LocalDisk.remove_file(path)
    }

    /// Killed within, it has removed one of the files.
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        if let Err(error) = self.spend(false) {
            if self.strikes_now()
                && let Some(Ok(entry)) = std::fs::read_dir(path)?.next()
            {
                let _ = std::fs::remove_file(entry.path());
            }
            return Err(error);
        }
        LocalDisk.remove_folder(path)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        LocalDisk.free_bytes(folder)
    }
}
