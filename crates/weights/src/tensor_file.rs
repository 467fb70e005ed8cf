//! One safetensors file, open for positional reads.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{WeightsError, quoted};
use crate::header::MAX_HEADER_BYTES;
use crate::layout::{Layout, TensorInfo};

/// A safetensors file whose header has been checked against the file's length.
///
/// Only the header is in memory. Any number of threads may read at once.
///
/// ```no_run
/// let file = dropcap_weights::TensorFile::open("model.safetensors".as_ref())?;
/// let norm = file.read_f32("model.norm.weight")?;
/// # Ok::<(), dropcap_weights::WeightsError>(())
/// ```
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    body_at: u64,
    layout: Layout,
}

impl TensorFile {
    /// Opens a file and checks its whole header.
    ///
    /// # Errors
    /// Any [`WeightsError`] about one file. No memory is taken from a claim before the claim has been compared
    /// with the file's length.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        // Asked before opening: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(|e| WeightsError::io("open", path, e))?;
        if !metadata.is_file() {
            return Err(WeightsError::NotAFile { path: path.to_path_buf() });
        }
        let file = File::open(path).map_err(|e| WeightsError::io("open", path, e))?;
        let length = file.metadata().map_err(|e| WeightsError::io("open", path, e))?.len();
        if length < 10 {
            return Err(WeightsError::FileTooShort { path: path.to_path_buf(), got: length });
        }
        let mut claim = [0; 8];
        file.read_exact_at(&mut claim, 0).map_err(|e| WeightsError::io("read", path, e))?;
        let (got, follow) = (u64::from_le_bytes(claim), length - 8);
        if got > MAX_HEADER_BYTES {
            return Err(WeightsError::HeaderTooLong {
                path: path.to_path_buf(),
                limit: MAX_HEADER_BYTES,
                got,
            });
        }
        if got > follow {
            return Err(WeightsError::HeaderBeyondFile { path: path.to_path_buf(), limit: follow, got });
        }
        let mut header = vec![0; got as usize];
        file.read_exact_at(&mut header, 8).map_err(|e| WeightsError::io("read", path, e))?;
        let layout = Layout::parse(path, &header, follow - got)?;
        Ok(Self { path: path.to_path_buf(), file, body_at: 8 + got, layout })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.layout.tensors.keys().map(String::as_str)
    }

    /// What the file says about one tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.layout.tensors.get(name)
    }

    /// The free-form text that the writer left (`__metadata__`); empty if there is none.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.layout.metadata
    }

    /// Reads one tensor's bytes as stored, replacing the content of `out`, whose memory is reused.
    ///
    /// # Errors
    /// No such tensor; the file became shorter or unreadable.
    pub fn read_bytes(&self, name: &str, out: &mut Vec<u8>) -> Result<(), WeightsError> {
        let bytes = self.expect(name)?.bytes() as usize;
        // Length was checked against the file, so this cannot be an absurd amount; resize keeps old bytes, which
        // the read overwrites.
        out.resize(bytes, 0);
        self.read_range(name, 0, out)
    }

    /// Reads `out.len()` bytes of one tensor from byte `first` of it on.
    ///
    /// # Errors
    /// No such tensor; the stretch passes its end; the file became shorter or unreadable.
    pub fn read_range(&self, name: &str, first: u64, out: &mut [u8]) -> Result<(), WeightsError> {
        let info = self.expect(name)?;
        let end = first.saturating_add(out.len() as u64);
        if end > info.bytes() {
            let (path, tensor, limit) = (self.path.clone(), quoted(name), info.bytes());
            return Err(WeightsError::RangeOutside { path, tensor, start: first, end, limit });
        }
        self.file
            .read_exact_at(out, self.body_at + info.start + first)
            .map_err(|e| WeightsError::io("read", &self.path, e))
    }

    /// Reads one tensor as f32, row-major.
    ///
    /// Halves widen exactly; doubles and integers of more than 24 bits round to nearest; booleans become 0 and 1.
    ///
    /// # Errors
    /// No such tensor; an 8-bit float, which has no meaning without its scales; the file became shorter or
    /// unreadable.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let dtype = self.expect(name)?.dtype;
        let mut bytes = Vec::new();
        self.read_bytes(name, &mut bytes)?;
        dtype.widen(&bytes).ok_or_else(|| WeightsError::NotNumbers {
            path: self.path.clone(),
            tensor: quoted(name),
            got: dtype,
        })
    }

    /// The tensor's entry, or the error that says it is not there.
    pub(crate) fn expect(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.info(name)
            .ok_or_else(|| WeightsError::NoSuchTensor { path: self.path.clone(), tensor: quoted(name) })
    }
}
