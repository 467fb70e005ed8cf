//! The stored tensors of a checkpoint, whichever kind of file holds them.

use std::ops::Range;
use std::path::Path;

use dropcap_kernels::DType;
use dropcap_weights::{ContentDigest, NonFinite, ShardedTensors, StoredType, WeightsError, is_gguf};

use crate::error::ModelError;
use crate::gguf::GgufTensors;
use crate::weights::StoredAs;

/// The tensors of a directory or of a GGUF file.
#[derive(Debug)]
pub(super) enum StoredTensors {
    Safetensors(ShardedTensors),
    Gguf(GgufTensors),
}

/// One tensor, as it is read.
pub(super) struct StoredInfo {
    /// Row-major.
    pub(super) shape: Vec<usize>,
    /// None for formats that nothing here computes with.
    pub(super) stored: Option<StoredAs>,
    /// What the file calls its format.
    pub(super) format: &'static str,
}

impl StoredTensors {
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        Ok(match is_gguf(path) {
            true => Self::Gguf(GgufTensors::open(path)?),
            false => Self::Safetensors(ShardedTensors::open(path)?),
        })
    }

    pub(super) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Safetensors(tensors) => Box::new(tensors.names()),
            Self::Gguf(tensors) => Box::new(tensors.names()),
        }
    }

    pub(super) fn info(&self, name: &str) -> Option<StoredInfo> {
        match self {
            Self::Safetensors(tensors) => {
                let info = tensors.info(name)?;
                let (shape, stored) = (info.shape.clone(), StoredAs::of_safetensors(info.dtype));
                Some(StoredInfo { shape, stored, format: info.dtype.name() })
            }
            Self::Gguf(tensors) => {
                let (format, shape) = tensors.info(name)?;
                Some(StoredInfo { shape, stored: Some(StoredAs::of_gguf(format)), format: format.name() })
            }
        }
    }

    /// Reads rows of a tensor that [`StoredInfo::stored`] says can be computed with, and says their dtype.
    pub(super) fn read_rows(
        &self,
        name: &str,
        rows: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<DType, ModelError> {
        let tensors = match self {
            Self::Gguf(tensors) => return tensors.read_rows(name, rows, bytes),
            Self::Safetensors(tensors) => tensors,
        };
        let file = tensors.file_of(name)?;
        let info = file.info(name);
        let stored = info.and_then(|info| StoredAs::of_safetensors(info.dtype));
        let (Some(info), Some(dtype)) = (info, stored.map(StoredAs::dtype)) else {
            let got = info.map_or(StoredType::F32, |info| info.dtype);
            let (path, tensor) = (file.path().to_path_buf(), format!("{name:?}"));
            return Err(WeightsError::NotNumbers { path, tensor, got }.into());
        };
        let width = info.shape.iter().skip(1).product::<usize>() * dtype.bytes();
        bytes.resize(rows.len() * width, 0);
        file.read_range(name, (rows.start * width) as u64, bytes)?;
        Ok(dtype)
    }

    /// How the numbers of a matrix are stored.
    pub(super) fn stored_as(&self, name: &str) -> StoredAs {
        self.info(name).and_then(|info| info.stored).unwrap_or(StoredAs::Numbers(DType::F32))
    }

    /// Reads outputs of a matrix that is stored in blocks, as they are, replacing the content of `bytes`.
    pub(super) fn read_blocks(
        &self,
        name: &str,
        outputs: Range<usize>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        match self {
            Self::Gguf(tensors) => tensors.read_blocks(name, outputs, bytes),
            Self::Safetensors(tensors) => {
                let (path, tensor) = (tensors.root().to_path_buf(), format!("{name:?} in blocks"));
                Err(WeightsError::NoSuchTensor { path, tensor }.into())
            }
        }
    }

    pub(super) fn read_f32(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self {
            Self::Safetensors(tensors) => Ok(tensors.read_f32(name)?),
            Self::Gguf(tensors) => tensors.read_f32(name),
        }
    }

    pub(super) fn first_non_finite(&self, name: &str) -> Result<Option<NonFinite>, ModelError> {
        match self {
            Self::Safetensors(tensors) => Ok(tensors.first_non_finite(name)?),
            Self::Gguf(tensors) => tensors.first_non_finite(name),
        }
    }

    pub(super) fn digest(
        &self,
        digest: &mut ContentDigest,
        label: &str,
        name: &str,
    ) -> Result<(), ModelError> {
        match self {
            Self::Safetensors(tensors) => Ok(digest.tensor(label, tensors, name)?),
            Self::Gguf(tensors) => tensors.digest(digest, label, name),
        }
    }
}
