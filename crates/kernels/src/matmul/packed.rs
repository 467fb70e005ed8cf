//! Weights laid out once, at load, for every product that follows.

use crate::error::{check_length, checked_size};
use crate::{Buffer, DType, Elements, KernelError, Shelf, Team};

/// Outputs of a panel: two AVX-512 registers of f32, or one cache line of a 16-bit format.
pub const PANEL: usize = 32;

const OP: &str = "packed matrix";

/// A tensor's bytes as a file holds them: little-endian, row-major, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct TensorBytes<'a> {
    /// The format of the elements.
    pub dtype: DType,
    /// All elements.
    pub bytes: &'a [u8],
}

/// Which way round a file holds a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// `[outputs, inputs]`, as `nn.Linear` does.
    OutputsByInputs,
    /// `[inputs, outputs]`, as GPT-2's `Conv1D` does.
    InputsByOutputs,
}

/// One weight of those that are stacked along the outputs (query, key and value; gate and up).
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// Its elements.
    pub source: TensorBytes<'a>,
    /// Which way round they are.
    pub orientation: Orientation,
    /// Its outputs.
    pub outputs: usize,
}

/// A weight `[outputs, inputs]` in panels of 32 outputs: `[outputs / 32, rounded up][inputs][32]`, the last panel
/// padded with zeros. A product streams it from front to back.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    data: Buffer,
    outputs: usize,
    inputs: usize,
}

impl PackedMatrix {
    /// Packs the parts, stacked along the outputs, converted to `dtype` (rounding to nearest even).
    ///
    /// Errors: as [`PackedMatrix::zeroed`] and [`PackedMatrix::fill`].
    pub fn pack(team: &Team, parts: &[Part<'_>], inputs: usize, dtype: DType) -> Result<Self, KernelError> {
        let outputs = parts.iter().try_fold(0usize, |sum, part| sum.checked_add(part.outputs));
        let outputs = outputs.ok_or_else(|| KernelError::TooLarge {
            op: OP,
            expected: format!("at most {} outputs", usize::MAX),
            got: format!("the outputs of {} parts", parts.len()),
        })?;
        for part in parts {
            check_part(part, inputs)?;
        }
        let mut packed = Self::zeroed(outputs, inputs, dtype)?;
        let mut first = 0;
        for part in parts {
            packed.fill(team, first, part)?;
            first += part.outputs;
        }
        Ok(packed)
    }

    /// All zeros, to be filled part by part, so that a loader never holds two copies.
    ///
    /// Errors: no outputs or no inputs, or more memory than there is.
    pub fn zeroed(outputs: usize, inputs: usize, dtype: DType) -> Result<Self, KernelError> {
        if outputs == 0 || inputs == 0 {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "at least one output and one input".to_owned(),
                got: format!("[{outputs}, {inputs}]"),
            });
        }
        let panels = outputs.div_ceil(PANEL);
        // Pointer offsets are in bytes and signed.
        checked_size(OP, &[panels, inputs, PANEL, dtype.bytes(), 2])?;
        Ok(Self { data: Buffer::try_zeroed(dtype, panels * inputs * PANEL)?, outputs, inputs })
    }

    /// Moves the weights to a shelf, whose huge pages are read faster; see [`Shelf::keep`].
    pub fn keep_on(&mut self, shelf: &mut Shelf) {
        shelf.keep(&mut self.data);
    }

    /// Fills outputs `first_output..first_output + part.outputs`, on all threads.
    ///
    /// Errors: the part does not fit, or its bytes are not `outputs * inputs` elements; nothing was written then.
    pub fn fill(&mut self, team: &Team, first_output: usize, part: &Part<'_>) -> Result<(), KernelError> {
        check_part(part, self.inputs)?;
        if first_output.checked_add(part.outputs).is_none_or(|end| end > self.outputs) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: format!("a part that ends at or before output {}", self.outputs),
                got: format!("{} outputs from output {first_output}", part.outputs),
            });
        }
        super::fill::fill(team, &mut self.data, self.inputs, first_output, part);
        Ok(())
    }

    /// Evenly distributed weights in `-scale..=scale`, the same for the same seed and shape: a stand-in for a
    /// checkpoint where only speed matters.
    ///
    /// Errors: as [`PackedMatrix::zeroed`].
    pub fn random(
        outputs: usize,
        inputs: usize,
        dtype: DType,
        scale: f32,
        seed: u64,
    ) -> Result<Self, KernelError> {
        let mut packed = Self::zeroed(outputs, inputs, dtype)?;
        super::fill::fill_random(&mut packed.data, inputs, outputs, scale, seed);
        Ok(packed)
    }

    /// Number of outputs (n).
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Number of inputs (k).
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The format of the weights.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Bytes that the weights take, the last panel's padding included.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// Copies the weights of one output: an embedding row, when the embedding is tied to the output head. Writes
    /// zeros past the inputs, nothing past `out`, and zeros for an output that does not exist.
    pub fn row(&self, output: usize, out: &mut [f32]) {
        if output >= self.outputs {
            out.fill(0.0);
            return;
        }
        let start = output / PANEL * self.inputs * PANEL + output % PANEL;
        let (inside, outside) = out.split_at_mut(self.inputs.min(out.len()));
        outside.fill(0.0);
        match self.data.elements() {
            Elements::F32(all) => gather(&all[start..], inside, |x| x),
            Elements::F16(all) => gather(&all[start..], inside, half::f16::to_f32),
            Elements::Bf16(all) => gather(&all[start..], inside, half::bf16::to_f32),
        }
    }

    /// All panels.
    pub(super) fn data(&self) -> &Buffer {
        &self.data
    }
}

/// Every 32nd element, widened.
fn gather<T: Copy>(from: &[T], to: &mut [f32], widen: impl Fn(T) -> f32) {
    for (to, from) in to.iter_mut().zip(from.iter().step_by(PANEL)) {
        *to = widen(*from);
    }
}

fn check_part(part: &Part<'_>, inputs: usize) -> Result<(), KernelError> {
    let expected = checked_size(OP, &[part.outputs, inputs, part.source.dtype.bytes()])?;
    check_length(OP, "the bytes of a part", expected, part.source.bytes.len())
}
