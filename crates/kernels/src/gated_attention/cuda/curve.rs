//! The alpha-sigmoid on the device.

use crate::alpha_sigmoid::AlphaSigmoid;
use crate::cuda::{Device, DeviceBuffer};
use crate::{KernelError, error::check_at_least};

/// Numbers before the cells: `Curve` of `curve.cuh`.
const HEAD: usize = 8;
/// Cells of the steepest curve: 64 an octave, from the finest start to the farthest end.
const MOST_CELLS: usize = 64 * 40;

/// The curve of one [`AlphaSigmoid`] at a time, in memory that kernels read.
#[derive(Debug)]
pub struct DeviceCurve {
    numbers: DeviceBuffer<f32>,
}

impl DeviceCurve {
    /// Room for any curve; none is there before [`DeviceCurve::set`].
    ///
    /// # Errors
    /// No memory.
    pub fn new(device: &Device) -> Result<Self, KernelError> {
        let numbers = DeviceBuffer::zeroed(device, "the votes' curve", HEAD + 4 * MOST_CELLS)?;
        Ok(Self { numbers })
    }

    /// Takes another curve; waits for the copy of some kilobytes.
    ///
    /// # Errors
    /// A failed device.
    pub fn set(&mut self, curve: &AlphaSigmoid) -> Result<(), KernelError> {
        let numbers = curve.device_numbers();
        check_at_least("alpha_sigmoid", "the curve", numbers.len(), self.numbers.len())?;
        Ok(self.numbers.write(0, &numbers)?)
    }

    pub(super) fn pointer(&self) -> u64 {
        self.numbers.pointer()
    }
}
