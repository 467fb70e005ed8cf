//! A blob while it arrives.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use dropcap_files::{Disk, LocalDisk, folder_of};
use sha2::{Digest, Sha256};

use super::HubError;
use super::listing::RemoteFile;

/// An unfinished blob and the hash of what is in it. The caller holds the blob's lock.
#[derive(Debug)]
pub(super) struct Partial<'a> {
    remote: &'a RemoteFile,
    path: PathBuf,
    file: File,
    length: u64,
    hash: Option<Sha256>,
    carried: bool,
}

impl<'a> Partial<'a> {
    /// Goes on with what an earlier run left, if a hash can later tell whether that was any good; else starts
    /// empty.
    pub(super) fn open(path: PathBuf, remote: &'a RemoteFile) -> Result<Self, HubError> {
        let failed = |source| HubError::cache("write", &path)(source);
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(failed)?;
        let mut open = OpenOptions::new();
        let file = open.read(true).append(true).create(true).open(&path).map_err(failed)?;
        let left = file.metadata().map_err(failed)?.len();
        let hash = remote.sha256.is_some().then(Sha256::new);
        let mut partial = Self { remote, path, file, length: 0, hash, carried: false };
        if left == 0 {
            return Ok(partial);
        }
        if partial.hash.is_none() || left > remote.size {
            partial.restart()?;
            return Ok(partial);
        }
        partial.reread()?;
        Ok(partial)
    }

    fn reread(&mut self) -> Result<(), HubError> {
        let failed = |source| HubError::cache("read", &self.path)(source);
        let mut piece = vec![0; 1 << 20];
        loop {
            let count = self.file.read(&mut piece).map_err(failed)?;
            if count == 0 {
                self.carried = true;
                return Ok(());
            }
            if let Some(hash) = &mut self.hash {
                hash.update(&piece[..count]);
            }
            self.length += count as u64;
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn is_full(&self) -> bool {
        self.length >= self.remote.size
    }

    /// Whether bytes of an earlier run are in it.
    pub(super) fn carried(&self) -> bool {
        self.carried
    }

    /// Forgets every byte.
    pub(super) fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(HubError::cache("write", &self.path))?;
        self.length = 0;
        self.hash = self.hash.is_some().then(Sha256::new);
        self.carried = false;
        Ok(())
    }

    /// Adds a piece; a byte more than listed is an error.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<(), HubError> {
        let got = self.length + piece.len() as u64;
        if got > self.remote.size {
            return Err(self.remote.wrong_size(got));
        }
        self.file.write_all(piece).map_err(HubError::cache("write", &self.path))?;
        if let Some(hash) = &mut self.hash {
            hash.update(piece);
        }
        self.length = got;
        Ok(())
    }

    /// Compares a full blob with what the repository lists.
    pub(super) fn check(&self) -> Result<(), HubError> {
        if self.length != self.remote.size {
            return Err(self.remote.wrong_size(self.length));
        }
        let (Some(hash), Some(expected)) = (&self.hash, &self.remote.sha256) else {
            return Ok(());
        };
        let got: String = hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if got == *expected {
            return Ok(());
        }
        Err(HubError::WrongHash { file: self.remote.name.clone(), expected: expected.clone(), got })
    }

    /// Makes a checked blob the blob.
    pub(super) fn finish(self, blob: &Path) -> Result<(), HubError> {
        self.file.sync_all().map_err(HubError::cache("write", &self.path))?;
        let published = LocalDisk.rename(&self.path, blob).and_then(|()| LocalDisk.settle(folder_of(blob)));
        published.map_err(HubError::cache("publish", blob))
    }

    /// Leaves nothing behind; that it could not is less important than why.
    pub(super) fn discard(self) {
        drop(fs::remove_file(&self.path));
    }
}
