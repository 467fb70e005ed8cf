//! The alpha-sigmoid on the device.

use crate::alpha_sigmoid::AlphaSigmoid;
use crate::cuda::{Device, DeviceBuffer, PinnedBuffer};
use crate::{KernelError, error::check_at_least};

/// Numbers before the cells: `Curve` of `curve.cuh`.
const HEAD: usize = 8;
/// Cells of the steepest curve: 64 an octave, from the finest start to the farthest end.
const MOST_CELLS: usize = 64 * 40;

/// The curve of one [`AlphaSigmoid`] at a time, in memory that kernels read.
#[derive(Debug)]
pub struct DeviceCurve {
    numbers: DeviceBuffer<f32>,
    sent: PinnedBuffer<f32>,
}

impl DeviceCurve {
    /// Room for any curve; none is there before [`DeviceCurve::set`].
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Device) -> Result<Self, KernelError> {
        let length = HEAD + 4 * MOST_CELLS;
        let numbers = DeviceBuffer::zeroed(device, "the votes' curve", length)?;
        Ok(Self { numbers, sent: PinnedBuffer::zeroed(device, length)? })
    }

    /// Takes another curve without waiting for the copy: the device must have been waited for since one was taken before.
    ///
    /// # Errors
    /// A failed device.
    pub fn set(&mut self, curve: &AlphaSigmoid) -> Result<(), KernelError> {
        let numbers = curve.device_numbers();
        check_at_least("alpha_sigmoid", "the curve", numbers.len(), self.numbers.len())?;
        self.sent.write(&numbers);
        Ok(self.numbers.write_pinned(&self.sent)?)
    }

    pub(super) fn pointer(&self) -> u64 {
        self.numbers.pointer()
    }
}
