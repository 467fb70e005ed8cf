//! From a header's claims to byte ranges that are known to lie in the file.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{WeightsError, quoted};
use crate::header::{MAX_RANK, MAX_TENSORS, RawHeader, RawTensor};
use crate::stored_type::StoredType;

/// One tensor of a file: its format, its shape, and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Format of the elements.
    pub dtype: StoredType,
    /// Dimensions, row-major.
    pub shape: Vec<usize>,
    /// First byte, counted from the end of the header.
    pub start: u64,
    /// One past the last byte, counted from the end of the header.
    pub end: u64,
}

impl TensorInfo {
    /// Bytes of the tensor; at most the length of its file.
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }

    /// Number of elements; at most the length of its file in bytes.
    pub fn elements(&self) -> usize {
        (self.bytes() / self.dtype.bytes() as u64) as usize
    }
}

/// The believed content of a header.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

impl Layout {
    /// Parses and checks a header against the `body` bytes that follow it in the file.
    ///
    /// Memory is proportional to the header, never to what the header claims.
    pub(crate) fn parse(path: &Path, header: &[u8], body: u64) -> Result<Self, WeightsError> {
        match header.first() {
            Some(b'{') => {}
            first => {
                let got = first.map_or("nothing".into(), |&byte| format!("byte {byte:#04x}"));
                return Err(WeightsError::HeaderStart { path: path.to_path_buf(), got });
            }
        }
        let raw: RawHeader = serde_json::from_slice(header)
            .map_err(|e| WeightsError::HeaderJson { path: path.to_path_buf(), reason: e.to_string() })?;
        if raw.listed > MAX_TENSORS {
            let (limit, got) = (MAX_TENSORS, raw.listed);
            return Err(WeightsError::TooManyTensors { path: path.to_path_buf(), limit, got });
        }
        let mut tensors = BTreeMap::new();
        for (name, raw) in raw.tensors {
            let info = check_tensor(path, &name, &raw)?;
            let tensor = quoted(&name);
            if tensors.insert(name, info).is_some() {
                return Err(WeightsError::DuplicateTensor { path: path.to_path_buf(), tensor });
            }
        }
        check_ranges(path, &tensors, body)?;
        Ok(Self { metadata: raw.metadata, tensors })
    }
}

/// Checks one entry on its own: dtype, rank, and shape times dtype against the byte range.
fn check_tensor(path: &Path, name: &str, raw: &RawTensor) -> Result<TensorInfo, WeightsError> {
    let at = || (path.to_path_buf(), quoted(name));
    let Some(dtype) = StoredType::from_name(&raw.dtype) else {
        let (path, tensor) = at();
        return Err(WeightsError::UnknownDtype { path, tensor, got: quoted(&raw.dtype) });
    };
    if raw.shape.rank > MAX_RANK {
        let (path, tensor) = at();
        return Err(WeightsError::RankTooHigh { path, tensor, limit: MAX_RANK, got: raw.shape.rank });
    }
    // Dimensions of 0 are left out of the product: [0, 2^64-1] holds no byte, but whoever multiplies its strides
    // would overflow.
    let span = raw
        .shape
        .dims
        .iter()
        .filter(|&&dim| dim != 0)
        .try_fold(dtype.bytes() as u128, |product, &dim| product.checked_mul(u128::from(dim)))
        .and_then(|span| u64::try_from(span).ok())
        .filter(|&span| span <= i64::MAX as u64);
    let shape: Option<Vec<usize>> = raw.shape.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let (Some(span), Some(shape)) = (span, shape) else {
        let (path, tensor) = at();
        return Err(WeightsError::ShapeTooLarge { path, tensor, got: raw.shape.dims.clone() });
    };
    let (start, end) = raw.data_offsets;
    let Some(got) = end.checked_sub(start) else {
        let (path, tensor) = at();
        return Err(WeightsError::ReversedRange { path, tensor, start, end });
    };
    let expected = if raw.shape.dims.contains(&0) { 0 } else { span };
    if expected != got {
        let (path, tensor) = at();
        let shape = raw.shape.dims.clone();
        return Err(WeightsError::SizeMismatch { path, tensor, shape, dtype, expected, got });
    }
    Ok(TensorInfo { dtype, shape, start, end })
}

/// Checks all entries together: their byte ranges cover the body exactly once.
fn check_ranges(path: &Path, tensors: &BTreeMap<String, TensorInfo>, body: u64) -> Result<(), WeightsError> {
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, info)| (info.start, info.end));
    let mut expected = 0;
    for (name, info) in in_order {
        if info.start != expected {
            let (path, tensor, got) = (path.to_path_buf(), quoted(name), info.start);
            return Err(WeightsError::NotContiguous { path, tensor, expected, got });
        }
        expected = info.end;
    }
    if expected != body {
        return Err(WeightsError::BodyLength { path: path.to_path_buf(), expected, got: body });
    }
    Ok(())
}
