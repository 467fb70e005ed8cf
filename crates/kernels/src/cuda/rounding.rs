//! Numbers in the formats of the device, for the tests.

use half::{bf16, f16};

use super::{Device, DeviceBuffer, Specialisation};
use crate::DType;

/// Little-endian bytes of numbers rounded to nearest even.
pub(crate) fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// And back.
pub(crate) fn numbers_of(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let twos = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect(),
        DType::F16 => twos().map(|&x| f16::from_le_bytes(x).to_f32()).collect(),
        DType::Bf16 => twos().map(|&x| bf16::from_le_bytes(x).to_f32()).collect(),
    }
}

pub(crate) fn rounded(values: &[f32], dtype: DType) -> Vec<f32> {
    numbers_of(&bytes_of(values, dtype), dtype)
}

pub(crate) fn upload(device: &Device, values: &[f32], dtype: DType) -> DeviceBuffer<u8> {
    DeviceBuffer::copy_of(device, "a test", &bytes_of(values, dtype)).unwrap()
}

/// Memory of which every number is NaN.
pub(crate) fn poisoned(device: &Device, bytes: usize) -> DeviceBuffer<u8> {
    let buffer = DeviceBuffer::uninitialized(device, "a test", bytes).unwrap();
    buffer.fill_bytes(0xff).unwrap();
    buffer
}

pub(crate) fn poisoned_f32(device: &Device, len: usize) -> DeviceBuffer<f32> {
    let buffer = DeviceBuffer::uninitialized(device, "a test", len).unwrap();
    buffer.fill_bytes(0xff).unwrap();
    buffer
}

pub(crate) fn plain(weights: DType, hidden: usize) -> Specialisation {
    Specialisation {
        weights,
        cache: weights,
        codes: None,
        query_heads: 4,
        kv_heads: 2,
        groups: 1,
        head_dim: 16,
        hidden,
        side_width: 0,
        statistics: 0,
    }
}

/// Twice the distance of neighbours near 1: a last bit that fell the other way, and its rounding.
pub(crate) fn last_bits(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 2e-6,
        DType::F16 => 1.0 / 512.0,
        DType::Bf16 => 1.0 / 64.0,
    }
}

#[track_caller]
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let distance = (f64::from(got) - want).abs();
        // NaN is not close to anything.
        assert!(distance <= tolerance * (1.0 + want.abs()), "{what}: element {i} is {got}, want {want}");
    }
}
