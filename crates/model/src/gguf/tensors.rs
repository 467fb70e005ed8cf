//! The tensors of a GGUF file under Hugging Face's names, in Hugging Face's arrangement.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use dropcap_kernels::DType;
use dropcap_weights::{BlockType, ContentDigest, GgufFile, NonFinite, WeightsError};

use super::config::{ROPE_FACTORS, head_dim};
use super::metadata::Metadata;
use super::names::{Arrangement, translate};
use crate::error::ModelError;
use crate::weights::StoredAs;

/// An open GGUF file and what its tensors are called elsewhere.
#[derive(Debug)]
pub(crate) struct GgufTensors {
    file: GgufFile,
    by_name: BTreeMap<String, Place>,
}

/// A tensor's name in the file, and how its rows lie.
#[derive(Debug)]
struct Place {
    name: String,
    arrangement: Arrangement,
}

impl GgufTensors {
    /// Opens a file. Tensors of no known name keep theirs.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let file = GgufFile::open(path)?;
        let metadata = Metadata::of(&file)?;
        let (architecture, head) = (metadata.architecture(), head_dim(&metadata)?);
        let by_name = file
            .names()
            // Looked at beside the config, which says what they mean.
            .filter(|name| *name != ROPE_FACTORS)
            .map(|name| {
                let known = translate(architecture, name, head);
                let (elsewhere, arrangement) = known.unwrap_or((name.to_owned(), Arrangement::Same));
                (elsewhere, Place { name: name.to_owned(), arrangement })
            })
            .collect();
        Ok(Self { file, by_name })
    }

    /// Names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Format and shape of a tensor.
    pub(crate) fn info(&self, name: &str) -> Option<(BlockType, Vec<usize>)> {
        let place = self.by_name.get(name)?;
        let info = self.file.info(&place.name)?;
        let mut shape = info.shape.clone();
        if place.arrangement == Arrangement::Turned {
            shape.reverse();
        }
        Some((info.dtype, shape))
    }

    /// Reads some rows, replacing the content of `bytes`, and says their dtype: blocks become f32.
    pub(crate) fn read_rows(
        &self,
        name: &str,
        rows: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<DType, ModelError> {
        let place = self.place(name)?;
        let (dtype, shape) = self.info(name).ok_or_else(|| self.missing(name))?;
        if let [length] = shape[..] {
            let numbers = self.vector(place, length)?;
            let part = numbers.get(rows).unwrap_or_default();
            bytes.clear();
            bytes.extend(part.iter().flat_map(|number| number.to_le_bytes()));
            return Ok(DType::F32);
        }
        if place.arrangement != Arrangement::Turned {
            return Ok(widened(self.stored_rows(place, rows, bytes)?, bytes));
        }
        // The columns of what is stored: all of it is read, and a part of each row kept.
        let (inputs, outputs) = (shape.first().copied().unwrap_or(0), shape.last().copied().unwrap_or(0));
        let mut stored = Vec::new();
        self.stored_rows(place, 0..outputs, &mut stored)?;
        let dtype = widened(dtype, &mut stored);
        let width = dtype.bytes();
        bytes.clear();
        for input in rows {
            for output in 0..outputs {
                let at = (output * inputs + input) * width;
                bytes.extend_from_slice(stored.get(at..at + width).unwrap_or_default());
            }
        }
        Ok(dtype)
    }

    /// Reads outputs of a matrix as they are stored: rows of the file, in Hugging Face's order.
    pub(crate) fn read_blocks(
        &self,
        name: &str,
        outputs: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        self.stored_rows(self.place(name)?, outputs, bytes).map(|_| ())
    }

    /// Reads a tensor as f32, row-major.
    pub(crate) fn read_f32(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let rows = self.info(name).and_then(|(_, shape)| shape.first().copied()).unwrap_or(0);
        let mut bytes = Vec::new();
        let dtype = self.read_rows(name, 0..rows, &mut bytes)?;
        Ok(crate::stored_type(dtype).widen(&bytes).unwrap_or_default())
    }

    /// A vector, whose numbers are what rows are in a matrix: the bias of queries may be interleaved.
    fn vector(&self, place: &Place, length: usize) -> Result<Vec<f32>, ModelError> {
        let mut bytes = Vec::new();
        let dtype = self.stored(place, 0..1, &mut bytes)?;
        let dtype = widened(dtype, &mut bytes);
        let stored = crate::stored_type(dtype).widen(&bytes).unwrap_or_default();
        let numbers = (0..length).filter_map(|row| stored.get(place.arrangement.place(row)).copied());
        Ok(numbers.collect())
    }

    /// As [`GgufFile::first_non_finite`], under the name here.
    pub(crate) fn first_non_finite(&self, name: &str) -> Result<Option<NonFinite>, ModelError> {
        let found = self.file.first_non_finite(&self.place(name)?.name)?;
        Ok(found.map(|found| NonFinite { tensor: name.to_owned(), ..found }))
    }

    /// Takes a tensor into a digest.
    pub(crate) fn digest(
        &self,
        digest: &mut ContentDigest,
        label: &str,
        name: &str,
    ) -> Result<(), ModelError> {
        Ok(digest.gguf_tensor(label, &self.file, &self.place(name)?.name)?)
    }

    /// Reads rows in the order asked for, as they are stored, and says their format.
    fn stored_rows(
        &self,
        place: &Place,
        rows: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<BlockType, ModelError> {
        let Arrangement::Interleaved { head } = place.arrangement else {
            return self.stored(place, rows, bytes);
        };
        // A row's place is in its own head: whole heads are read, and their rows put in order.
        let whole = rows.start / head * head..rows.end.div_ceil(head) * head;
        let mut stored = Vec::new();
        let dtype = self.stored(place, whole.clone(), &mut stored)?;
        let width = stored.len() / whole.len().max(1);
        bytes.clear();
        for row in rows {
            let at = (place.arrangement.place(row) - whole.start) * width;
            bytes.extend_from_slice(stored.get(at..at + width).unwrap_or_default());
        }
        Ok(dtype)
    }

    /// Reads rows of the file.
    fn stored(
        &self,
        place: &Place,
        rows: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<BlockType, ModelError> {
        let info = self.file.info(&place.name).ok_or_else(|| self.missing(&place.name))?;
        bytes.resize(rows.len() * info.row_bytes(), 0);
        self.file.read_range(&place.name, (rows.start * info.row_bytes()) as u64, bytes)?;
        Ok(info.dtype)
    }

    fn place(&self, name: &str) -> Result<&Place, ModelError> {
        self.by_name.get(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> ModelError {
        WeightsError::NoSuchTensor { path: self.file.path().to_path_buf(), tensor: format!("{name:?}") }
            .into()
    }
}

/// Turns blocks into f32, and says the dtype of what there is now.
fn widened(format: BlockType, bytes: &mut Vec<u8>) -> DType {
    let stored = StoredAs::of_gguf(format);
    if !matches!(stored, StoredAs::Numbers(_)) {
        let mut numbers = Vec::new();
        format.dequantise(bytes, &mut numbers);
        bytes.clear();
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    }
    stored.dtype()
}
