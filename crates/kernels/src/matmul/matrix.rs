//! Weights on the device.

use std::fmt;

use super::fill::converted;
use super::{BlockFormat, DeviceRandom, Orientation, Part};
use crate::cuda::{Device, DeviceBuffer};
use crate::error::{check_at_least, check_length, checked_size};
use crate::{DType, Elements, KernelError, Team};

pub(super) const OP: &str = "weights on the device";
/// Elements that are converted at once on the way to the device: both copies stay small.
const CHUNK: usize = 16 << 20;

/// How a weight on a device is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MatrixFormat {
    /// Numbers, row-major.
    Numbers(DType),
    /// Blocks of 32, as the lanes of a warp multiply them (`quantised/tiles.rs`).
    Blocks(BlockFormat),
}

impl fmt::Display for MatrixFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers(dtype) => dtype.fmt(f),
            Self::Blocks(format) => format.fmt(f),
        }
    }
}

/// A weight `[outputs, inputs]`.
#[derive(Debug)]
pub struct DeviceMatrix {
    pub(super) data: DeviceBuffer<u8>,
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) format: MatrixFormat,
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
        check_shape(outputs, inputs)?;
        let bytes = checked_size(OP, &[outputs, inputs, dtype.bytes()])?;
        let data = DeviceBuffer::uninitialized(device, "weights", bytes)?;
        Ok(Self { data, outputs, inputs, format: MatrixFormat::Numbers(dtype) })
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
    /// A matrix of blocks, bytes that are not whole rows or reach past the end, or a failed device.
    pub fn upload_rows(&self, first_output: usize, bytes: &[u8]) -> Result<(), KernelError> {
        let row = self.inputs * self.numbers()?.bytes();
        check_length(OP, "the bytes of whole rows", bytes.len() / row * row, bytes.len())?;
        check_at_least(OP, "the matrix", first_output * row + bytes.len(), self.data.len())?;
        self.data.write(first_output * row, bytes)?;
        Ok(())
    }

    /// Fills outputs `first_output..first_output + part.outputs` from a file's bytes, converted on the threads of the
    /// team where the formats differ, turned on the device where the file holds `[inputs, outputs]`; quantised on the
    /// threads of the team where the matrix holds blocks; waits.
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
        self.end_of(first_output, part.outputs)?;
        let MatrixFormat::Numbers(dtype) = self.format else {
            return self.quantise(team, first_output, part);
        };
        let element = dtype.bytes();
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
        if source.dtype == dtype && cfg!(target_endian = "little") {
            target.write(start, source.bytes)?;
        } else {
            for at in (0..count).step_by(CHUNK) {
                let chunk = converted(team, source, at, CHUNK.min(count - at), dtype);
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
            unsafe { random.turn(dtype, turned.pointer(), to, self.inputs, part.outputs) }?;
            self.data.device().synchronize()?;
        }
        Ok(())
    }

    /// Its bytes: elements, or blocks as tiles.
    #[must_use]
    pub fn data(&self) -> &DeviceBuffer<u8> {
        &self.data
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.data.bytes()
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

    /// How the weights are held.
    #[must_use]
    pub fn format(&self) -> MatrixFormat {
        self.format
    }

    fn numbers(&self) -> Result<DType, KernelError> {
        match self.format {
            MatrixFormat::Numbers(dtype) => Ok(dtype),
            MatrixFormat::Blocks(_) => Err(self.other_than("a matrix of numbers")),
        }
    }

    /// Where a part of outputs ends, if the matrix has them.
    pub(super) fn end_of(&self, first: usize, outputs: usize) -> Result<usize, KernelError> {
        let end = first.saturating_add(outputs);
        check_at_least(OP, "the outputs of the matrix", end, self.outputs)?;
        Ok(end)
    }

    pub(super) fn other_than(&self, expected: &str) -> KernelError {
        KernelError::Invalid { op: OP, expected: expected.to_owned(), got: format!("one of {}", self.format) }
    }
}

/// The kernels count vectors of a row and outputs in 32 bits.
pub(super) fn check_shape(outputs: usize, inputs: usize) -> Result<(), KernelError> {
    if outputs == 0 || inputs == 0 || outputs > i32::MAX as usize || inputs > i32::MAX as usize {
        return Err(KernelError::Invalid {
            op: OP,
            expected: format!("1 to {} outputs and inputs", i32::MAX),
            got: format!("[{outputs}, {inputs}]"),
        });
    }
    Ok(())
}
