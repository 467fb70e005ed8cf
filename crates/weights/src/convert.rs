//! Stored elements to f32.

use half::{bf16, f16};

use crate::stored_type::StoredType;

impl StoredType {
    /// Every whole element of `bytes` as f32, or nothing for formats that need more than their bytes to be numbers.
    pub fn widen(self, bytes: &[u8]) -> Option<Vec<f32>> {
        Some(match self {
            StoredType::Bool => bytes.iter().map(|&b| f32::from(u8::from(b != 0))).collect(),
            StoredType::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
            StoredType::I8 => bytes.iter().map(|&b| f32::from(b as i8)).collect(),
            StoredType::F8E4M3 | StoredType::F8E5M2 => return None,
            StoredType::U16 => each(bytes, |b| f32::from(u16::from_le_bytes(b))),
            StoredType::I16 => each(bytes, |b| f32::from(i16::from_le_bytes(b))),
            StoredType::F16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            StoredType::Bf16 => each(bytes, |b| bf16::from_le_bytes(b).to_f32()),
            StoredType::U32 => each(bytes, |b| u32::from_le_bytes(b) as f32),
            StoredType::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
            StoredType::F32 => each(bytes, f32::from_le_bytes),
            StoredType::U64 => each(bytes, |b| u64::from_le_bytes(b) as f32),
            StoredType::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
            StoredType::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
        })
    }
}

fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|&chunk| read(chunk)).collect()
}
