//! From a header's claims to byte ranges that are known to lie in the file.

use std::collections::BTreeMap;

use super::header::{RawHeader, RawTensor};
use super::value::GgufValue;
use super::{BlockType, GgufFault};
use crate::error::quoted;

/// Where tensors begin when a file does not say: the format's default.
const ALIGNMENT: u64 = 32;
/// The largest alignment that is believed; published files have 32.
const MAX_ALIGNMENT: u64 = 1 << 16;
const ALIGNMENT_KEY: &str = "general.alignment";
const SPLIT_KEY: &str = "split.count";

/// One tensor of a GGUF file: its format, its shape, and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Format of the numbers.
    pub dtype: BlockType,
    /// Dimensions, row-major: the last are the numbers of a row, which are whole blocks.
    pub shape: Vec<usize>,
    /// First byte, counted from the beginning of the file.
    pub(crate) start: u64,
    bytes: u64,
}

impl GgufTensor {
    /// Bytes of the tensor; at most the length of its file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Numbers of a row.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        (self.bytes / self.row_bytes() as u64) as usize
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.width() / self.dtype.block() * self.dtype.block_bytes()
    }
}

/// The believed content of a header.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) metadata: BTreeMap<String, GgufValue>,
    pub(crate) tensors: BTreeMap<String, GgufTensor>,
}

impl Layout {
    /// Checks a header against the file's length.
    pub(crate) fn check(raw: RawHeader, length: u64) -> Result<Self, GgufFault> {
        let RawHeader { metadata, tensors: listed, end } = raw;
        if let Some(got) = metadata.get(SPLIT_KEY).and_then(GgufValue::unsigned).filter(|&got| got > 1) {
            return Err(GgufFault::Split { got });
        }
        let alignment = alignment(&metadata)?;
        let body_at = end.next_multiple_of(alignment).min(length);
        let mut tensors = BTreeMap::new();
        for raw in listed {
            let tensor = check_tensor(&raw, body_at)?;
            if tensors.contains_key(&raw.name) {
                return Err(GgufFault::DuplicateTensor { tensor: quoted(&raw.name) });
            }
            tensors.insert(raw.name, tensor);
        }
        check_ranges(&tensors, body_at, alignment, length)?;
        Ok(Self { metadata, tensors })
    }
}

fn alignment(metadata: &BTreeMap<String, GgufValue>) -> Result<u64, GgufFault> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else { return Ok(ALIGNMENT) };
    let alignment = value.unsigned().filter(|&n| n.is_power_of_two() && n <= MAX_ALIGNMENT);
    alignment.ok_or_else(|| GgufFault::Value {
        key: quoted(ALIGNMENT_KEY),
        expected: format!("a power of two up to {MAX_ALIGNMENT}"),
        got: value.describe(),
    })
}

/// Checks one entry on its own: format, shape, whole blocks, bytes that can be counted.
fn check_tensor(raw: &RawTensor, body_at: u64) -> Result<GgufTensor, GgufFault> {
    let name = || quoted(&raw.name);
    let dtype = BlockType::from_number(raw.kind)
        .ok_or_else(|| GgufFault::TensorType { tensor: name(), got: BlockType::describe(raw.kind) })?;
    let dims: Vec<u64> = raw.dims.iter().rev().copied().collect();
    let numbers = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let bytes = numbers
        .filter(|&numbers| numbers > 0)
        .and_then(|numbers| numbers.checked_mul(dtype.block_bytes() as u64))
        .filter(|&bytes| bytes <= i64::MAX as u64);
    let shape: Option<Vec<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let (Some(bytes), Some(shape)) = (bytes, shape) else {
        return Err(GgufFault::Shape { tensor: name(), shape: dims });
    };
    let (got, block) = (dims.last().copied().unwrap_or(0), dtype.block());
    if !got.is_multiple_of(block as u64) {
        return Err(GgufFault::PartBlock { tensor: name(), got, block, dtype });
    }
    // An offset near 2^64 stays there, which is refused as no tensor's end.
    let start = body_at.saturating_add(raw.offset);
    Ok(GgufTensor { dtype, shape, start, bytes: bytes / block as u64 })
}

/// Checks all entries together: aligned one after the other they cover the body exactly once.
fn check_ranges(
    tensors: &BTreeMap<String, GgufTensor>,
    body_at: u64,
    alignment: u64,
    length: u64,
) -> Result<(), GgufFault> {
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, tensor)| tensor.start);
    let (mut end, mut expected) = (body_at, body_at);
    for (name, tensor) in in_order {
        if tensor.start != expected {
            let (expected, got) = (expected - body_at, tensor.start - body_at);
            return Err(GgufFault::NotContiguous { tensor: quoted(name), expected, got });
        }
        // A start is an end that was counted before, and sizes are below 2^63; so neither sum wraps.
        end = tensor.start.saturating_add(tensor.bytes);
        expected = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        if end > length {
            break;
        }
    }
    // The padding behind the last tensor may be left out.
    if !(end..=expected).contains(&length) {
        return Err(GgufFault::BodyLength { expected: end - body_at, got: length - body_at });
    }
    Ok(())
}
