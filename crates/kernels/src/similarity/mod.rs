//! How much a layer's attention changes the residual stream, on a device: for methods that share a budget among layers by it. Its twin
//! on the processor is `cosine` in `crates/policy`.

#[cfg(test)]
mod cuda_tests;

use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, DeviceStep, Function, Grid, Module, Source, Specialisation,
    StepSize, kernel_struct,
};
use crate::error::check_at_least;

pub(crate) const SOURCE: Source = Source {
    file: "similarity/similarity.cu",
    text: include_str!("similarity.cu"),
    constants: |_, _| vec![("THREADS", THREADS)],
    arguments: &[SimilarityArgs::LAYOUT],
};

const OP: &str = "similarity";
const THREADS: usize = 256;

/// The sum over the prompt tokens of each sequence of the cosines between the residual stream before a layer's attention and behind
/// it.
#[derive(Debug)]
pub struct DeviceSimilarity {
    rows: Function,
    sums_of_rows: Function,
    before: DeviceBuffer<f32>,
    cosines: DeviceBuffer<f64>,
    sums: DeviceBuffer<f64>,
    layers: usize,
    slots: usize,
    hidden: usize,
}

kernel_struct! {
    struct SimilarityArgs as SimilarityArgs {
        rows: u64,
        spans: u64,
        before: u64,
        after: u64,
        cosines: u64,
        sums: u64,
        count: u32,
        slots: u32,
        layers: u32,
        layer: u32,
    }
}

impl DeviceSimilarity {
    /// For steps of at most `rows` tokens of `slots` sequences, of which nothing is known.
    ///
    /// # Errors
    /// A kernel that does not compile, no memory.
    pub fn new(
        device: &Device,
        specialisation: &Specialisation,
        rows: usize,
        (layers, slots): (usize, usize),
    ) -> Result<Self, KernelError> {
        let (module, hidden) = (Module::load(device, &SOURCE, specialisation)?, specialisation.hidden);
        let what = "what layers change";
        Ok(Self {
            rows: module.function("similarity_rows", 0)?,
            sums_of_rows: module.function("similarity_sums", 0)?,
            before: DeviceBuffer::uninitialized(device, what, rows * hidden)?,
            cosines: DeviceBuffer::uninitialized(device, what, rows)?,
            sums: DeviceBuffer::zeroed(device, what, slots * layers)?,
            layers,
            slots,
            hidden,
        })
    }

    /// Keeps the first `rows` rows of the residual stream, f32 `[rows, c]`, as they are before a layer's attention adds to them.
    ///
    /// # Errors
    /// More rows than it was made for, or than there are.
    pub fn keep(&self, residual: &DeviceBuffer<f32>, rows: usize) -> Result<(), KernelError> {
        check_at_least(OP, "rows", rows * self.hidden, self.before.len())?;
        Ok(self.before.copy_from(0, DeviceSlice::new(residual, 0..rows * self.hidden)?)?)
    }

    /// Adds the cosines between what was kept and the residual stream now, of the step's tokens that lie in prompts, to the sums of
    /// their sequences. Launches.
    ///
    /// # Errors
    /// A layer that does not exist, a step that is larger than its buffers.
    pub fn add(
        &self,
        step: &DeviceStep,
        size: StepSize,
        layer: usize,
        residual: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "layers", layer + 1, self.layers)?;
        check_at_least(OP, "rows", size.rows, step.rows.len().min(self.cosines.len()))?;
        check_at_least(OP, "spans", size.spans, step.spans.len())?;
        check_at_least(OP, "the residual stream", size.rows * self.hidden, residual.len())?;
        let argument = SimilarityArgs {
            rows: step.rows.pointer(),
            spans: step.spans.pointer(),
            before: self.before.pointer(),
            after: residual.pointer(),
            cosines: self.cosines.pointer(),
            sums: self.sums.pointer(),
            count: size.rows as u32,
            slots: self.slots as u32,
            layers: self.layers as u32,
            layer: layer as u32,
        };
        // SAFETY: the argument is the kernel's, and its buffers are as large as just checked; spans name rows of the step.
        unsafe { self.rows.launch(Grid::new(size.rows.div_ceil(THREADS / 32), THREADS as u32), &argument) }?;
        // SAFETY: as above.
        Ok(unsafe { self.sums_of_rows.launch(Grid::new(size.spans, THREADS as u32), &argument) }?)
    }

    /// The sums of a sequence, f64 `[layers]`; waits for the device.
    ///
    /// # Errors
    /// A slot that does not exist, a failed device.
    pub fn sums(&self, slot: usize) -> Result<Vec<f64>, KernelError> {
        check_at_least(OP, "slots", slot + 1, self.slots)?;
        Ok(self.sums.read_range(slot * self.layers, self.layers)?)
    }

    /// Sets the sums of a sequence, f64 `[layers]`.
    ///
    /// # Errors
    /// A slot that does not exist, other layers, a failed device.
    pub fn set(&self, slot: usize, sums: &[f64]) -> Result<(), KernelError> {
        check_at_least(OP, "slots", slot + 1, self.slots)?;
        check_at_least(OP, "layers", sums.len(), self.layers)?;
        Ok(self.sums.write(slot * self.layers, sums)?)
    }
}
