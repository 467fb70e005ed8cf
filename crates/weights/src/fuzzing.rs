//! Bodies of the fuzz targets: each takes any bytes, must not panic, and must not take memory from claims.

use std::path::Path;

use crate::gguf;
use crate::index::ShardIndex;
use crate::layout::Layout;

/// Takes bytes as a whole safetensors file: length, header and body.
///
/// Panics if a header is believed whose tensors do not cover the body exactly.
pub fn file(bytes: &[u8]) {
    let Some((claim, rest)) = bytes.split_first_chunk::<8>() else { return };
    let length = u64::from_le_bytes(*claim);
    let Some((header, body)) = usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n)) else {
        return;
    };
    if let Ok(layout) = Layout::parse(Path::new("fuzz"), header, body.len() as u64) {
        let covered: u64 = layout.tensors.values().map(|info| info.bytes()).sum();
        assert_eq!(covered, body.len() as u64);
        for info in layout.tensors.values() {
            assert_eq!(info.elements(), info.shape.iter().product::<usize>());
        }
    }
}

/// Takes bytes as an index of shards.
pub fn index(bytes: &[u8]) {
    let _ = ShardIndex::parse(Path::new("fuzz"), bytes);
}

/// Takes bytes as a whole GGUF file.
///
/// Panics if a header is believed whose tensors do not lie in the file, or whose rows are no whole blocks.
pub fn gguf(bytes: &[u8]) {
    let length = bytes.len() as u64;
    let Ok(raw) = gguf::RawHeader::read(bytes, length) else { return };
    let Ok(layout) = gguf::Layout::check(raw, length) else { return };
    for tensor in layout.tensors.values() {
        assert!(tensor.start.checked_add(tensor.bytes()).is_some_and(|end| end <= length));
        assert_eq!(tensor.rows() * tensor.width(), tensor.shape.iter().product::<usize>());
        let stored = &bytes[tensor.start as usize..][..tensor.bytes() as usize];
        let mut numbers = Vec::new();
        tensor.dtype.dequantise(stored, &mut numbers);
        assert_eq!(numbers.len(), tensor.rows() * tensor.width());
    }
    layout.metadata.values().for_each(|value| assert!(!value.describe().is_empty()));
}
