//! One GGUF file, open for positional reads: metadata, and tensors in the formats of ggml.

mod block_type;
mod dequantise;
mod fault;
pub(crate) mod header;
mod layout;
mod value;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use block_type::BlockType;
pub use fault::GgufFault;
pub use layout::GgufTensor;
pub use value::{GgufNumbers, GgufValue};

pub(crate) use header::{RawHeader, Stop};
pub(crate) use layout::Layout;

use crate::error::{WeightsError, quoted};
use crate::finite::NonFinite;

/// A GGUF file (versions 2 and 3) whose header has been checked against the file's length.
///
/// Only the header is in memory. Any number of threads may read at once.
///
/// The checks are those of ggml's own reader and what it was attacked through: sums and products that wrap, lengths and
/// counts that the file cannot hold, an alignment of 0, names given twice, tensors that overlap.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    file: File,
    layout: Layout,
}

/// Whether a path is a file that begins as GGUF files do.
pub fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"GGUF"
}

impl GgufFile {
    /// Opens a file and checks its whole header.
    ///
    /// # Errors
    /// [`WeightsError::Gguf`] with what is wrong with it; a file that cannot be read. No memory is taken from a claim
    /// before the claim has been compared with the file's length.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::io("read", path, source);
        // Asked before opening: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(|e| WeightsError::io("open", path, e))?;
        if !metadata.is_file() {
            return Err(WeightsError::NotAFile { path: path.to_path_buf() });
        }
        let file = File::open(path).map_err(|e| WeightsError::io("open", path, e))?;
        let length = file.metadata().map_err(io)?.len();
        let raw = RawHeader::read(BufReader::with_capacity(1 << 16, &file), length);
        let layout = match raw {
            Ok(raw) => Layout::check(raw, length),
            Err(Stop::Fault(fault)) => Err(fault),
            Err(Stop::Io(source)) => return Err(io(source)),
        };
        let layout = layout.map_err(|fault| WeightsError::Gguf { path: path.to_path_buf(), fault })?;
        Ok(Self { path: path.to_path_buf(), file, layout })
    }

    /// The path it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata by key.
    pub fn metadata(&self) -> &BTreeMap<String, GgufValue> {
        &self.layout.metadata
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.layout.tensors.keys().map(String::as_str)
    }

    /// What the file says about one tensor.
    pub fn info(&self, name: &str) -> Option<&GgufTensor> {
        self.layout.tensors.get(name)
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
        self.file.read_exact_at(out, info.start + first).map_err(|e| WeightsError::io("read", &self.path, e))
    }

    /// Finds the first NaN or infinity of a tensor, reading it once in stretches of rows.
    ///
    /// # Errors
    /// No such tensor; the file became shorter or unreadable.
    pub fn first_non_finite(&self, name: &str) -> Result<Option<NonFinite>, WeightsError> {
        /// Numbers of a stretch.
        const STRETCH: usize = 1 << 18;
        let info = self.expect(name)?;
        let step = (STRETCH / info.width()).max(1) * info.row_bytes();
        let (mut bytes, mut numbers, mut first) = (Vec::new(), Vec::new(), 0);
        while first < info.bytes() {
            bytes.resize((info.bytes() - first).min(step as u64) as usize, 0);
            self.read_range(name, first, &mut bytes)?;
            numbers.clear();
            info.dtype.dequantise(&bytes, &mut numbers);
            if let Some(at) = numbers.iter().position(|x| !x.is_finite()) {
                let before = first / info.row_bytes() as u64 * info.width() as u64;
                let index = before + at as u64;
                return Ok(Some(NonFinite { tensor: name.to_owned(), index, value: numbers[at] }));
            }
            first += bytes.len() as u64;
        }
        Ok(None)
    }

    /// The tensor's entry, or the error that says it is not there.
    pub(crate) fn expect(&self, name: &str) -> Result<&GgufTensor, WeightsError> {
        self.info(name)
            .ok_or_else(|| WeightsError::NoSuchTensor { path: self.path.clone(), tensor: quoted(name) })
    }
}
