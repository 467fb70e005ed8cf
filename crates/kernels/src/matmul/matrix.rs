//! Weights on the device.

use super::fill::converted;
use super::{DeviceRandom, Orientation, Part};
use crate::cuda::{Device, DeviceBuffer};
use crate::error::{check_at_least, check_length, checked_size};
use crate::{DType, Elements, KernelError, Team};

const OP: &str = "weights on the device";
/// Elements that are converted at once on the way to the device: both copies stay small.
const CHUNK: usize = 16 << 20;

/// A weight `[outputs, inputs]`, row-major.
#[derive(Debug)]
pub struct DeviceMatrix {
    data: DeviceBuffer<u8>,
    outputs: usize,
    inputs: usize,
    dtype: DType,
}

impl DeviceMatrix {
    /// Memory for a weight, to be filled.
    ///
    /// # Errors
    /// No outputs or inputs, or no such memory on the device.
    pub fn uninitialized(
        device: &Device,
        outputs: usize,
        inputs: usize,
        dtype: DType,
    ) -> Result<Self, KernelError> {
        // The kernels count vectors of a row and outputs in 32 bits.
        if outputs == 0 || inputs == 0 || outputs > i32::MAX as usize || inputs > i32::MAX as usize {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!("1 to {} outputs and inputs", i32::MAX),
                got: format!("[{outputs}, {inputs}]"),
            });
        }
        let bytes = checked_size(OP, &[outputs, inputs, dtype.bytes()])?;
        Ok(Self { data: DeviceBuffer::uninitialized(device, "weights", bytes)?, outputs, inputs, dtype })
    }

    /// Evenly distributed weights in `-scale..=scale`: those of [`PackedMatrix::random`](crate::PackedMatrix::random)
    /// with the same arguments, bit for bit. Waits for the device.
    ///
    /// # Errors
    /// As [`DeviceMatrix::uninitialized`], or a failed device.
    pub fn random(
        random: &DeviceRandom,
        device: &Device,
        outputs: usize,
        inputs: usize,
        dtype: DType,
        scale: f32,
        seed: u64,
    ) -> Result<Self, KernelError> {
        let matrix = Self::uninitialized(device, outputs, inputs, dtype)?;
        // SAFETY: the matrix was just made for so many.
        unsafe { random.launch(matrix.data.pointer(), dtype, outputs * inputs, inputs, scale, seed) }?;
        device.synchronize()?;
        Ok(matrix)
    }

    /// Copies whole rows, of this matrix's own dtype and little-endian, to outputs `first_output..`; waits.
    ///
    /// # Errors
    /// Bytes that are not whole rows or reach past the end, or a failed device.
    pub fn upload_rows(&self, first_output: usize, bytes: &[u8]) -> Result<(), KernelError> {
        let row = self.inputs * self.dtype.bytes();
        check_length(OP, "the bytes of whole rows", bytes.len() / row * row, bytes.len())?;
        check_at_least(OP, "the matrix", first_output * row + bytes.len(), self.data.len())?;
        self.data.write(first_output * row, bytes)?;
        Ok(())
    }

    /// Fills outputs `first_output..first_output + part.outputs` from a file's bytes, converted on the threads of the
    /// team where the formats differ, turned on the device where the file holds `[inputs, outputs]`; waits.
    ///
    /// # Errors
    /// A part that does not fit or is not `outputs * inputs` elements, no memory for turning, or a failed device.
    pub fn fill(
        &self,
        random: &DeviceRandom,
        team: &Team,
        first_output: usize,
        part: &Part<'_>,
    ) -> Result<(), KernelError> {
        let count = checked_size(OP, &[part.outputs, self.inputs])?;
        let source = part.source;
        check_length(OP, "the bytes of a part", count * source.dtype.bytes(), source.bytes.len())?;
        check_at_least(OP, "the outputs of the matrix", first_output + part.outputs, self.outputs)?;
        let element = self.dtype.bytes();
        let first = first_output * self.inputs * element;
        let turned = match part.orientation {
            Orientation::OutputsByInputs => None,
            Orientation::InputsByOutputs => Some(DeviceBuffer::<u8>::uninitialized(
                self.data.device(),
                "a weight to be turned",
                count * element,
            )?),
        };
        let (target, start) = turned.as_ref().map_or((&self.data, first), |turned| (turned, 0));
        if source.dtype == self.dtype && cfg!(target_endian = "little") {
            target.write(start, source.bytes)?;
        } else {
            for at in (0..count).step_by(CHUNK) {
                let chunk = converted(team, source, at, CHUNK.min(count - at), self.dtype);
                let bytes: &[u8] = match chunk.elements() {
                    Elements::F32(all) => bytemuck::cast_slice(all),
                    Elements::F16(all) => bytemuck::cast_slice(all),
                    Elements::Bf16(all) => bytemuck::cast_slice(all),
                };
                target.write(start + at * element, bytes)?;
            }
        }
        if let Some(turned) = turned {
            let to = self.data.pointer() + first as u64;
            // SAFETY: both have room for the part, as checked above.
            unsafe { random.turn(self.dtype, turned.pointer(), to, self.inputs, part.outputs) }?;
            self.data.device().synchronize()?;
        }
        Ok(())
    }

    /// Its elements. A front of rows serves as an embedding table too.
    #[must_use]
    pub fn data(&self) -> &DeviceBuffer<u8> {
        &self.data
    }

    /// Number of outputs (n).
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of inputs (k).
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The format of the weights.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}
