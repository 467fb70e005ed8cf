//! Tensors as a safetensors file, streamed from where they lie.

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, json};

use crate::TrainError;
use crate::disk::{Disk, publish};

/// The number formats of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateType {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Unsigned 32-bit integers.
    U32,
    /// Unsigned 64-bit integers.
    U64,
    /// The upper half of a single-precision float.
    Bf16,
    /// Half precision.
    F16,
}

impl StateType {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::U64 => 8,
            Self::F32 | Self::U32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::U32 => "U32",
            Self::U64 => "U64",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }
}

/// A tensor that is to be saved: borrowed, little-endian bytes.
#[derive(Debug, Clone)]
pub struct StateTensor<'a> {
    /// Its name, unique in its file.
    pub name: String,
    /// How its numbers lie.
    pub dtype: StateType,
    /// Its shape; empty for one number.
    pub shape: Vec<usize>,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> StateTensor<'a> {
    /// A tensor of numbers in memory.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &'a [f32]) -> Self {
        let bytes = bytemuck::cast_slice(values);
        Self { name: name.into(), dtype: StateType::F32, shape: shape.to_vec(), bytes }
    }

    /// Doubles in one row.
    pub fn f64(name: impl Into<String>, values: &'a [f64]) -> Self {
        let bytes = bytemuck::cast_slice(values);
        Self { name: name.into(), dtype: StateType::F64, shape: vec![values.len()], bytes }
    }

    /// Integers in one row.
    pub fn u64(name: impl Into<String>, values: &'a [u64]) -> Self {
        let bytes = bytemuck::cast_slice(values);
        Self { name: name.into(), dtype: StateType::U64, shape: vec![values.len()], bytes }
    }

    fn check(&self) -> Result<(), TrainError> {
        let numbers = self.shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        let expected = numbers.and_then(|numbers| numbers.checked_mul(self.dtype.bytes()));
        if expected == Some(self.bytes.len()) {
            return Ok(());
        }
        Err(TrainError::StateTensor {
            name: self.name.clone(),
            shape: self.shape.clone(),
            expected: expected.map_or(u64::MAX, |bytes| bytes as u64),
            got: self.bytes.len() as u64,
        })
    }
}

/// The header of a file of tensors, and the tensors in the order of their bytes.
pub(crate) struct TensorLayout<'a, 'b> {
    header: Vec<u8>,
    order: Vec<&'b StateTensor<'a>>,
}

impl<'a, 'b> TensorLayout<'a, 'b> {
    /// Lays tensors out as the format's own library does: wide types first, so that all are aligned, then by name.
    pub(crate) fn new(tensors: &'b [StateTensor<'a>], metadata: &[(&str, &str)]) -> Result<Self, TrainError> {
        let mut order: Vec<_> = tensors.iter().collect();
        order.sort_by(|a, b| (b.dtype.bytes(), &a.name).cmp(&(a.dtype.bytes(), &b.name)));
        let (mut header, mut at) = (Map::new(), 0);
        if !metadata.is_empty() {
            let texts: Map<_, _> =
                metadata.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
            header.insert("__metadata__".to_owned(), texts.into());
        }
        for tensor in &order {
            tensor.check()?;
            let end = at + tensor.bytes.len();
            let entry =
                json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [at, end]});
            if header.insert(tensor.name.clone(), entry).is_some() {
                let (name, shape) = (format!("{} (given twice)", tensor.name), tensor.shape.clone());
                return Err(TrainError::StateTensor {
                    name,
                    shape,
                    expected: 0,
                    got: tensor.bytes.len() as u64,
                });
            }
            at = end;
        }
        let mut header = serde_json::Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        Ok(Self { header, order })
    }

    /// Writes the file.
    pub(crate) fn write(&self, file: &mut dyn Write) -> io::Result<()> {
        file.write_all(&(self.header.len() as u64).to_le_bytes())?;
        file.write_all(&self.header)?;
        self.order.iter().try_for_each(|tensor| file.write_all(tensor.bytes))
    }
}

/// Writes a file of tensors as `transformers` saves one: whole, or not at all.
///
/// # Errors
/// A tensor whose bytes do not fit its shape, or a name given twice; a refusal of the disk.
pub(crate) fn write_tensors(
    disk: &dyn Disk,
    path: &Path,
    tensors: &[StateTensor<'_>],
) -> Result<(), TrainError> {
    let layout = TensorLayout::new(tensors, &[("format", "pt")])?;
    publish(disk, path, |file| layout.write(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_the_format_reads_what_is_written() {
        let (weights, steps, numbers) = ([1.5_f32, -2.0, 0.0, 7.0, 8.0, 9.0], [3_u64], [0.1_f64, 0.2]);
        let tensors = [
            StateTensor::f32("b", &[2, 3], &weights),
            StateTensor::u64("a", &steps),
            StateTensor::f64("c", &numbers),
            StateTensor::f32("empty", &[0], &[]),
            StateTensor { name: "half".into(), dtype: StateType::Bf16, shape: vec![], bytes: &[1, 2] },
        ];
        let mut bytes = Vec::new();
        TensorLayout::new(&tensors, &[("format", "x")]).unwrap().write(&mut bytes).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.len(), 5);
        for tensor in &tensors {
            let found = read.tensor(&tensor.name).unwrap();
            assert_eq!((found.shape(), found.data()), (&tensor.shape[..], tensor.bytes));
            assert_eq!(found.dtype().to_string().to_uppercase(), tensor.dtype.name());
        }
    }

    #[test]
    fn wrong_lengths_and_names_given_twice_are_refused() {
        let short = [StateTensor::f32("short", &[3], &[1.0, 2.0])];
        let error = TensorLayout::new(&short, &[]).err().unwrap().to_string();
        assert!(error.contains("short") && error.contains("12 bytes, got 8"), "{error}");
        let twice = [StateTensor::u64("a", &[1]), StateTensor::u64("a", &[1])];
        assert!(TensorLayout::new(&twice, &[]).err().unwrap().to_string().contains("given twice"));
        let huge = [StateTensor::f32("huge", &[usize::MAX, 2], &[])];
        assert!(TensorLayout::new(&huge, &[]).is_err());
    }
}
