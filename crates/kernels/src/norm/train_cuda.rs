//! The norms in training, on the device.

use super::cuda::{check_width, threads};
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, Source, Specialisation,
    kernel_struct,
};
use crate::error::{check_at_least, check_length, checked_size};
use crate::reduce::{DeviceSums, PARTS};

pub(crate) const TRAIN_SOURCE: Source = Source {
    file: "norm/train.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("train.cu")),
    constants: |_, specialisation| {
        let (rows, forward) = forward_block(specialisation.hidden);
        let (back_rows, back) = back_block(specialisation.hidden);
        vec![
            ("NORM_THREADS", back),
            ("BACK_ROWS", back_rows),
            ("FORWARD_THREADS", forward),
            ("FORWARD_ROWS", rows),
        ]
    },
    arguments: &[Forward::LAYOUT, Backward::LAYOUT],
};

const OP: &str = "norm in training";

/// Rows of a block on the way forward, and its threads: a warp for each row that fits into the registers of one.
fn forward_block(width: usize) -> (usize, usize) {
    if width <= 1024 { (4, 128) } else { (1, threads(width)) }
}

/// Rows of a block on the way back, and the threads of a row: a warp for each row that fits into the registers of one beside the
/// sums and the row that follows.
fn back_block(width: usize) -> (usize, usize) {
    if width <= 256 { (4, 32) } else { (1, threads(width)) }
}

/// Weight and bias of a norm, f32 `[c]`, or their gradients; without a bias it is an RMS norm.
#[derive(Debug, Clone, Copy)]
pub struct NormSlices<'a> {
    /// What is multiplied by.
    pub weight: DeviceSlice<'a, f32>,
    /// What is added.
    pub bias: Option<DeviceSlice<'a, f32>>,
}

/// Norms of rows of the residual stream, and their gradients.
#[derive(Debug, Clone)]
pub struct TrainNorm {
    forward: Function,
    backward: Function,
    sums: DeviceSums,
    width: usize,
    element: usize,
}

kernel_struct! {
    struct Forward as NormForward {
        x: u64,
        weight: u64,
        bias: u64,
        y: u64,
        rest: u64,
        stats: u64,
        epsilon: f32,
        rows: u32,
    }
}

kernel_struct! {
    struct Backward as NormBackward {
        x: u64,
        weight: u64,
        stats: u64,
        dy: u64,
        dx: u64,
        narrow_dx: u64,
        partials: u64,
        rows: u32,
        centred: u32,
        fresh: u32,
    }
}

impl TrainNorm {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`], or rows of more than 16384 elements.
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let width = specialisation.hidden;
        check_width(OP, width)?;
        let module = Module::load(device, &TRAIN_SOURCE, specialisation)?;
        Ok(Self {
            forward: module.function("norm_forward", 0)?,
            backward: module.function("norm_backward", 0)?,
            sums: DeviceSums::new(device, specialisation)?,
            width,
            element: specialisation.weights.bytes(),
        })
    }

    /// Numbers that [`TrainNorm::backward`] needs.
    #[must_use]
    pub fn scratch(&self) -> usize {
        2 * PARTS * self.width
    }

    /// Writes the norm of each row of `x`, f32 `[rows, c]`, to `y`, W `[rows, c]`; what the rounding of `y` left over to
    /// `rest`, bf16 `[rows, c]`, where it is given; mean and inverse deviation to `stats`, f32 `[rows, 2]`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn forward(
        &self,
        rows: usize,
        norm: NormSlices<'_>,
        epsilon: f32,
        x: &DeviceBuffer<f32>,
        y: &DeviceBuffer<u8>,
        rest: Option<&DeviceBuffer<u8>>,
        stats: &DeviceBuffer<f32>,
    ) -> Result<(), KernelError> {
        let count = checked_size(OP, &[rows, self.width])?;
        check_at_least(OP, "x", count, x.len())?;
        check_at_least(OP, "y", count * self.element, y.len())?;
        check_at_least(OP, "stats", 2 * rows, stats.len())?;
        if let Some(rest) = rest {
            check_at_least(OP, "rest", 2 * count, rest.len())?;
        }
        let (weight, bias) = self.parameters(norm)?;
        let arguments = Forward {
            x: x.pointer(),
            weight,
            bias,
            y: y.pointer(),
            rest: rest.map_or(0, DeviceBuffer::pointer),
            stats: stats.pointer(),
            epsilon,
            rows: rows as u32,
        };
        let (block, threads) = forward_block(self.width);
        // SAFETY: the layout of `NormForward`; lengths as just checked.
        unsafe { self.forward.launch(Grid::new(rows.div_ceil(block), threads as u32), &arguments) }?;
        Ok(())
    }

    /// From `dy`, W `[rows, c]`: adds the gradient of `x` to `dx`, f32 `[rows, c]` (or writes it, where that is `fresh`),
    /// writes the sum once more to `narrow_dx`, W `[rows, c]`, where it is given, and adds the gradients of weight and bias to
    /// `gradients`.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn backward(
        &self,
        rows: usize,
        norm: NormSlices<'_>,
        x: &DeviceBuffer<f32>,
        stats: &DeviceBuffer<f32>,
        dy: &DeviceBuffer<u8>,
        fresh: bool,
        dx: &DeviceBuffer<f32>,
        narrow_dx: Option<&DeviceBuffer<u8>>,
        scratch: &DeviceBuffer<f32>,
        gradients: NormSlices<'_>,
    ) -> Result<(), KernelError> {
        let count = checked_size(OP, &[rows, self.width])?;
        check_at_least(OP, "x", count, x.len())?;
        check_at_least(OP, "dx", count, dx.len())?;
        check_at_least(OP, "dy", count * self.element, dy.len())?;
        check_at_least(OP, "stats", 2 * rows, stats.len())?;
        check_at_least(OP, "scratch", self.scratch(), scratch.len())?;
        if let Some(narrow) = narrow_dx {
            check_at_least(OP, "narrow_dx", count * self.element, narrow.len())?;
        }
        let (weight, _) = self.parameters(norm)?;
        self.parameters(gradients)?;
        let (block, threads) = back_block(self.width);
        let blocks = rows.div_ceil(block).min(PARTS);
        let arguments = Backward {
            x: x.pointer(),
            weight,
            stats: stats.pointer(),
            dy: dy.pointer(),
            dx: dx.pointer(),
            narrow_dx: narrow_dx.map_or(0, DeviceBuffer::pointer),
            partials: scratch.pointer(),
            rows: rows as u32,
            centred: u32::from(norm.bias.is_some()),
            fresh: u32::from(fresh),
        };
        // SAFETY: the layout of `NormBackward`; lengths as just checked.
        unsafe { self.backward.launch(Grid::new(blocks, (block * threads) as u32), &arguments) }?;
        let of = |first| DeviceSlice::new(scratch, first..scratch.len());
        self.sums.add_partials(of(0)?, blocks, 2 * self.width, gradients.weight)?;
        if let Some(bias) = gradients.bias {
            self.sums.add_partials(of(self.width)?, blocks, 2 * self.width, bias)?;
        }
        Ok(())
    }

    fn parameters(&self, norm: NormSlices<'_>) -> Result<(u64, u64), KernelError> {
        check_length(OP, "weight", self.width, norm.weight.len())?;
        if let Some(bias) = norm.bias {
            check_length(OP, "bias", self.width, bias.len())?;
        }
        let pointers = (norm.weight.pointer(), norm.bias.map_or(0, |bias| bias.pointer()));
        // Rows of whole vectors are read four numbers at a time.
        if self.width.is_multiple_of(4) && !(pointers.0 | pointers.1).is_multiple_of(16) {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "a weight and a bias at multiples of 16 bytes".to_owned(),
                got: format!("{pointers:?}"),
            });
        }
        Ok(pointers)
    }
}
