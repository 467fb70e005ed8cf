//! A bias on the device.

use half::{bf16, f16};

use crate::cuda::{Device, DeviceBuffer};
use crate::{DType, KernelError};

/// A bias `[n]` in f32, and rounded to W for the library, which wants it in the format of the product.
#[derive(Debug)]
pub struct DeviceBias {
    pub(super) wide: DeviceBuffer<f32>,
    pub(super) narrow: DeviceBuffer<u8>,
}

impl DeviceBias {
    /// Copies the bias; `dtype` is W.
    ///
    /// # Errors
    /// No such memory, or a failed device.
    pub fn new(device: &Device, dtype: DType, bias: &[f32]) -> Result<Self, KernelError> {
        let narrow: Vec<u8> = match dtype {
            DType::F32 => bias.iter().flat_map(|x| x.to_le_bytes()).collect(),
            DType::F16 => bias.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            DType::Bf16 => bias.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        };
        Ok(Self {
            wide: DeviceBuffer::copy_of(device, "a bias", bias)?,
            narrow: DeviceBuffer::copy_of(device, "a bias", &narrow)?,
        })
    }

    /// Number of outputs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wide.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wide.is_empty()
    }
}
