//! Tensors as a safetensors file, streamed from where they lie.

use std::io::{self, Write};

use serde_json::{Map, json};

use crate::StoredType;
use crate::error::{WeightsError, quoted};
use crate::header::METADATA;

/// A tensor that is to be written: borrowed, little-endian bytes.
#[derive(Debug, Clone)]
pub struct NewTensor<'a> {
    /// Its name, unique in its file.
    pub name: String,
    /// How its numbers lie.
    pub dtype: StoredType,
    /// Its shape; empty for one number.
    pub shape: Vec<usize>,
    /// Its bytes, row-major.
    pub bytes: &'a [u8],
}

impl<'a> NewTensor<'a> {
    /// Single-precision numbers in memory.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &'a [f32]) -> Self {
        Self::of(name, StoredType::F32, shape, bytemuck::cast_slice(values))
    }

    /// Double-precision numbers in memory.
    pub fn f64(name: impl Into<String>, shape: &[usize], values: &'a [f64]) -> Self {
        Self::of(name, StoredType::F64, shape, bytemuck::cast_slice(values))
    }

    /// Unsigned 32-bit integers in memory.
    pub fn u32(name: impl Into<String>, shape: &[usize], values: &'a [u32]) -> Self {
        Self::of(name, StoredType::U32, shape, bytemuck::cast_slice(values))
    }

    /// Unsigned 64-bit integers in memory.
    pub fn u64(name: impl Into<String>, shape: &[usize], values: &'a [u64]) -> Self {
        Self::of(name, StoredType::U64, shape, bytemuck::cast_slice(values))
    }

    fn of(name: impl Into<String>, dtype: StoredType, shape: &[usize], bytes: &'a [u8]) -> Self {
        Self { name: name.into(), dtype, shape: shape.to_vec(), bytes }
    }

    fn check(&self) -> Result<(), WeightsError> {
        let expected = bytes_of(self.dtype, &self.shape);
        if expected == Some(self.bytes.len()) {
            return Ok(());
        }
        Err(WeightsError::NewTensorSize {
            tensor: quoted(&self.name),
            shape: self.shape.clone(),
            dtype: self.dtype,
            expected: expected.map_or(u64::MAX, |bytes| bytes as u64),
            got: self.bytes.len() as u64,
        })
    }
}

/// The first bytes of a safetensors file, up to the first tensor's: of name, dtype and shape of every tensor, in the order
/// in which their bytes follow. To be used where the bytes are not there yet; else see [`NewTensorFile`].
///
/// # Errors
/// A shape whose bytes cannot be counted; a name given twice or reserved.
pub fn tensor_header<'a>(
    tensors: impl IntoIterator<Item = (&'a str, StoredType, &'a [usize])>,
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, WeightsError> {
    let (mut entries, mut at) = (Map::new(), 0_usize);
    if !metadata.is_empty() {
        let texts: Map<_, _> = metadata.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
        entries.insert(METADATA.to_owned(), texts.into());
    }
    for (name, dtype, shape) in tensors {
        let end = bytes_of(dtype, shape).and_then(|bytes| at.checked_add(bytes));
        let end = end.ok_or_else(|| WeightsError::NewTensorSize {
            tensor: quoted(name),
            shape: shape.to_vec(),
            dtype,
            expected: u64::MAX,
            got: 0,
        })?;
        let entry = json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [at, end]});
        if entries.insert(name.to_owned(), entry).is_some() || name == METADATA {
            return Err(WeightsError::NewTensorName { tensor: quoted(name) });
        }
        at = end;
    }
    let mut json = serde_json::Value::Object(entries).to_string();
    // Spaces keep the numbers aligned.
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    Ok([&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat())
}

fn bytes_of(dtype: StoredType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.bytes(), |product, &dim| product.checked_mul(dim))
}

/// A safetensors file that is to be written: its header, and its tensors in the order of their bytes.
///
/// The same tensors and metadata give the same bytes. To be used with `dropcap_files::publish`.
#[derive(Debug)]
pub struct NewTensorFile<'a> {
    header: Vec<u8>,
    order: Vec<&'a NewTensor<'a>>,
}

impl<'a> NewTensorFile<'a> {
    /// Lays tensors out as the format's own library does: wide types first, so that all are aligned, then by name.
    ///
    /// # Errors
    /// A tensor whose bytes do not fit its shape; a name given twice or reserved.
    pub fn new(tensors: &'a [NewTensor<'a>], metadata: &[(&str, &str)]) -> Result<Self, WeightsError> {
        tensors.iter().try_for_each(NewTensor::check)?;
        let mut order: Vec<_> = tensors.iter().collect();
        order.sort_by(|a, b| (b.dtype.bytes(), &a.name).cmp(&(a.dtype.bytes(), &b.name)));
        let entries = order.iter().map(|tensor| (&*tensor.name, tensor.dtype, &*tensor.shape));
        Ok(Self { header: tensor_header(entries, metadata)?, order })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, file: &mut dyn Write) -> io::Result<()> {
        file.write_all(&self.header)?;
        self.order.iter().try_for_each(|tensor| file.write_all(tensor.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(tensors: &[NewTensor<'_>], metadata: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        NewTensorFile::new(tensors, metadata).unwrap().write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_library_of_the_format_reads_what_is_written() {
        let (weights, steps, numbers) = ([1.5_f32, -2.0, 0.0, 7.0, 8.0, 9.0], [3_u64], [0.1_f64, 0.2]);
        let tensors = [
            NewTensor::f32("b", &[2, 3], &weights),
            NewTensor::u64("a", &[], &steps),
            NewTensor::f64("c", &[2], &numbers),
            NewTensor::f32("empty", &[0], &[]),
            NewTensor::u32("d", &[1], &[7]),
            NewTensor { name: "half".into(), dtype: StoredType::Bf16, shape: vec![], bytes: &[1, 2] },
        ];
        let metadata = [("format", "x"), ("another", "\"quoted\"")];
        let bytes = written(&tensors, &metadata);
        assert_eq!(bytes, written(&tensors, &metadata));
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), tensors.len());
        for tensor in &tensors {
            let found = read.tensor(&tensor.name).unwrap();
            assert_eq!((found.shape(), found.data()), (&tensor.shape[..], tensor.bytes));
            assert_eq!(found.dtype().to_string().to_uppercase(), tensor.dtype.name());
        }
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let texts = header.metadata().as_ref().unwrap();
        assert!(texts.len() == 2 && metadata.iter().all(|&(key, text)| texts[key] == text));
    }

    #[test]
    fn wrong_lengths_and_names_given_twice_are_refused() {
        let refused = |tensors: &[NewTensor<'_>]| NewTensorFile::new(tensors, &[]).unwrap_err().to_string();
        let words = refused(&[NewTensor::f32("short", &[3], &[1.0, 2.0])]);
        assert!(words.contains("short") && words.contains("12") && words.contains('8'), "{words}");
        let twice = [NewTensor::u64("a", &[1], &[1]), NewTensor::u64("a", &[1], &[1])];
        assert!(refused(&twice).contains("\"a\""));
        assert!(refused(&[NewTensor::u64(METADATA, &[1], &[1])]).contains(METADATA));
        refused(&[NewTensor::f32("huge", &[usize::MAX, 2], &[])]);
    }
}
