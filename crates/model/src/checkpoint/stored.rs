//! The stored tensors of a checkpoint, whichever kind of file holds them.

use std::ops::Range;
use std::path::Path;

use dropcap_kernels::{BlockFormat, DType};
use dropcap_weights::{
    BlockType, ContentDigest, NonFinite, ShardedTensors, StoredType, WeightsError, is_gguf,
};

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
    /// What its numbers are when they have been read; none for formats that nothing here computes with.
    pub(super) dtype: Option<DType>,
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
                let (shape, format) = (info.shape.clone(), info.dtype.name());
                Some(StoredInfo { shape, dtype: computable(info.dtype), format })
            }
            Self::Gguf(tensors) => {
                let (block, shape) = tensors.info(name)?;
                let dtype = match block {
                    BlockType::F16 => DType::F16,
                    BlockType::Bf16 => DType::Bf16,
                    _ => DType::F32,
                };
                Some(StoredInfo { shape, dtype: Some(dtype), format: block.name() })
            }
        }
    }

    /// Reads rows of a tensor that [`StoredInfo::dtype`] says can be computed with, and says their dtype.
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
        let (Some(info), Some(dtype)) = (info, info.and_then(|info| computable(info.dtype))) else {
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
        let number = |info: StoredInfo| info.dtype.map(StoredAs::Numbers);
        let plain = || self.info(name).and_then(number).unwrap_or(StoredAs::Numbers(DType::F32));
        let Self::Gguf(tensors) = self else { return plain() };
        match tensors.info(name).map(|(block, _)| block) {
            Some(BlockType::Q8_0) => StoredAs::Blocks(BlockFormat::Q8_0),
            Some(BlockType::Q4_0) => StoredAs::Blocks(BlockFormat::Q4_0),
            Some(BlockType::Q4_1) => StoredAs::Blocks(BlockFormat::Q4_1),
            None | Some(BlockType::F32 | BlockType::F16 | BlockType::Bf16) => plain(),
            Some(BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K | BlockType::Q6K) => {
                StoredAs::OtherBlocks
            }
        }
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

/// The kernels' name of a stored format, for those that they can read.
fn computable(dtype: StoredType) -> Option<DType> {
    match dtype {
        StoredType::F32 => Some(DType::F32),
        StoredType::F16 => Some(DType::F16),
        StoredType::Bf16 => Some(DType::Bf16),
        _ => None,
    }
}
