//! AdamW on the device, and the copies of parameters that products read.

use super::AdamW;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, Source, Specialisation, Stretches,
    kernel_struct,
};
use crate::error::{check_aligned, check_at_least, check_length};
use crate::{DType, KernelError};

pub(crate) const TRAIN_SOURCE: Source = Source {
    file: "optimizer/train.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("train.cu")),
    constants: |_, _| vec![("THREADS", THREADS as usize), ("STRETCH", Stretches::LONGEST)],
    arguments: &[
        Judge::LAYOUT,
        Step::LAYOUT,
        Narrow::LAYOUT,
        Split::LAYOUT,
        AddScaled::LAYOUT,
        Clear::LAYOUT,
    ],
};

const OP: &str = "adamw on the device";
const THREADS: u32 = 256;

/// A range of parameters with what a step changes beside them, all of one length.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    /// The parameters themselves.
    pub values: DeviceSlice<'a, f32>,
    /// Their gradients.
    pub gradients: DeviceSlice<'a, f32>,
    /// First moments.
    pub first: DeviceSlice<'a, f32>,
    /// Second moments.
    pub second: DeviceSlice<'a, f32>,
    /// W: what products read, written along.
    pub working: Option<DeviceSlice<'a, u8>>,
}

/// What was decided about a step, where the device knows it before the host does.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// What [`TrainOptimizer::judge`] has written.
    pub verdict: DeviceSlice<'a, f32>,
    /// Whether these gradients are scaled as it says.
    pub is_clipped: bool,
}

/// The optimiser's kernels.
#[derive(Debug, Clone)]
pub struct TrainOptimizer {
    judge: Function,
    adamw: Function,
    narrow: Function,
    split: Function,
    add_scaled: Function,
    clear: Function,
    width: usize,
    weights: DType,
}

kernel_struct! {
    struct Judge as Judge {
        found: u64,
        squares: u64,
        verdict: u64,
        clip: f64,
        count: u32,
        apart: u32,
        clipped: u32,
        padding: u32,
    }
}

kernel_struct! {
    struct Step as Step {
        parameters: u64,
        gradients: u64,
        first: u64,
        second: u64,
        working: u64,
        stretches: u64,
        verdict: u64,
        is_clipped: u32,
        gradient_scale: f32,
        beta1: f32,
        beta2: f32,
        epsilon: f32,
        decay: f32,
        rate: f32,
        root: f32,
    }
}

kernel_struct! {
    struct Narrow as Narrow {
        from: u64,
        to: u64,
        count: u64,
    }
}

kernel_struct! {
    struct Split as Split {
        from: u64,
        scale: u64,
        high: u64,
        rest: u64,
        count: u64,
    }
}

kernel_struct! {
    struct AddScaled as AddScaled {
        from: u64,
        scale: u64,
        to: u64,
        count: u64,
    }
}

kernel_struct! {
    struct Clear as Clear {
        numbers: u64,
        stretches: u64,
    }
}

impl TrainOptimizer {
    /// Compiles the kernels, or takes them from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &TRAIN_SOURCE, specialisation)?;
        Ok(Self {
            judge: module.function("judge", 0)?,
            adamw: module.function("adamw", 0)?,
            narrow: module.function("narrow_copy", 0)?,
            split: module.function("split", 0)?,
            add_scaled: module.function("add_scaled", 0)?,
            clear: module.function("clear", 0)?,
            width: specialisation.hidden,
            weights: specialisation.weights,
        })
    }

    /// Numbers of a verdict.
    pub const VERDICT: usize = 2;

    /// Decides about a step as [`Verdict::of`](super::Verdict::of) does, by sums of `squares` `[2, n]` in two parts, of which as many
    /// ranges are looked at as may be `clipped`; nothing moves where the number `found` is not 0.
    ///
    /// # Errors
    /// Fewer sums than ranges, more than 32 ranges, no room for the verdict, or a failed device.
    pub fn judge(
        &self,
        found: DeviceSlice<'_, f64>,
        squares: DeviceSlice<'_, f64>,
        clipped: &[bool],
        clip: f64,
        verdict: DeviceSlice<'_, f32>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "what was found", 1, found.len())?;
        check_at_least(OP, "the sums of squares", 2 * clipped.len(), squares.len())?;
        check_at_least(OP, "the verdict", Self::VERDICT, verdict.len())?;
        if clipped.len() > 32 {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "squares of 32 ranges at most".to_owned(),
                got: clipped.len().to_string(),
            });
        }
        let bits = clipped.iter().enumerate().map(|(at, &is_clipped)| u32::from(is_clipped) << at).sum();
        let arguments = Judge {
            found: found.pointer(),
            squares: squares.pointer(),
            verdict: verdict.pointer(),
            clip,
            count: clipped.len() as u32,
            apart: squares.len() as u32 / 2,
            clipped: bits,
            padding: 0,
        };
        // SAFETY: the layout of `Judge`; lengths as just checked.
        unsafe { self.judge.launch(Grid::new(1, 1), &arguments) }?;
        Ok(())
    }

    /// Takes one step, as [`adamw`](super::adamw) does, with these stretches of the range, if the verdict says that it moves.
    ///
    /// # Errors
    /// Lengths that differ, slices that do not begin at multiples of 16 bytes (8 of the working copy), stretches that do not begin at
    /// multiples of four numbers, a beta outside 0..1, step 0, or a failed device.
    pub fn adamw(
        &self,
        step: &AdamW,
        range: Parameters<'_>,
        stretches: &Stretches,
        judged: Judged<'_>,
    ) -> Result<(), KernelError> {
        super::check_step(step)?;
        let count = range.values.len();
        for (what, slice) in
            [("gradients", range.gradients), ("first moments", range.first), ("second moments", range.second)]
        {
            check_length(OP, what, count, slice.len())?;
            check_aligned(OP, what, slice.pointer(), 16)?;
        }
        check_aligned(OP, "parameters", range.values.pointer(), 16)?;
        if let Some(working) = range.working {
            check_length(OP, "the working copy", count * self.weights.bytes(), working.len())?;
            check_aligned(OP, "the working copy", working.pointer(), 4 * self.weights.bytes() as u64)?;
        }
        check_at_least(OP, "the verdict", Self::VERDICT, judged.verdict.len())?;
        let constants = super::Constants::of(step);
        let (stretches, blocks) = stretches.for_fours(OP, count)?;
        let arguments = Step {
            parameters: range.values.pointer(),
            gradients: range.gradients.pointer(),
            first: range.first.pointer(),
            second: range.second.pointer(),
            working: range.working.map_or(0, |working| working.pointer()),
            stretches,
            verdict: judged.verdict.pointer(),
            is_clipped: u32::from(judged.is_clipped),
            gradient_scale: step.gradient_scale,
            beta1: step.beta1,
            beta2: step.beta2,
            epsilon: step.epsilon,
            decay: constants.decay,
            rate: constants.rate,
            root: constants.root,
        };
        // SAFETY: the layout of `Step`; lengths as just checked.
        unsafe { self.adamw.launch(Grid::new(blocks, THREADS), &arguments) }?;
        Ok(())
    }

    /// Writes f32 `from` to `to`, W, of the same length.
    ///
    /// # Errors
    /// Lengths or alignments that do not agree, or a failed device.
    pub fn narrow(&self, from: DeviceSlice<'_, f32>, to: DeviceSlice<'_, u8>) -> Result<(), KernelError> {
        check_length(OP, "the narrow copy", from.len() * self.weights.bytes(), to.len())?;
        check_aligned(OP, "the source", from.pointer(), 16)?;
        check_aligned(OP, "the narrow copy", to.pointer(), 4 * self.weights.bytes() as u64)?;
        let arguments = Narrow { from: from.pointer(), to: to.pointer(), count: from.len() as u64 };
        let blocks = from.len().div_ceil(4 * THREADS as usize);
        // SAFETY: the layout of `Narrow`; lengths as just checked.
        unsafe { self.narrow.launch(Grid::new(blocks, THREADS), &arguments) }?;
        Ok(())
    }

    /// Writes the rows of `from`, f32 `[rows, c]`, times `scale` `[c]` where it is given, to `high`, W, and what the rounding
    /// left over to `rest`, bf16, where it is given.
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn split(
        &self,
        from: DeviceSlice<'_, f32>,
        scale: Option<DeviceSlice<'_, f32>>,
        high: DeviceSlice<'_, u8>,
        rest: Option<DeviceSlice<'_, u8>>,
    ) -> Result<(), KernelError> {
        let count = from.len();
        check_length(OP, "the high part", count * self.weights.bytes(), high.len())?;
        if let Some(scale) = scale {
            check_length(OP, "the scale", self.width, scale.len())?;
        }
        if let Some(rest) = rest {
            check_length(OP, "the rest", 2 * count, rest.len())?;
        }
        let arguments = Split {
            from: from.pointer(),
            scale: scale.map_or(0, |scale| scale.pointer()),
            high: high.pointer(),
            rest: rest.map_or(0, |rest| rest.pointer()),
            count: count as u64,
        };
        // SAFETY: the layout of `Split`; lengths as just checked.
        unsafe { self.split.launch(Grid::new(count.div_ceil(THREADS as usize), THREADS), &arguments) }?;
        Ok(())
    }

    /// Sets these stretches of `numbers` to zero.
    ///
    /// # Errors
    /// Stretches beyond the end of `numbers`, or a failed device.
    pub fn clear(&self, numbers: &DeviceBuffer<f32>, stretches: &Stretches) -> Result<(), KernelError> {
        let (stretches, blocks) = stretches.for_kernel("clearing", numbers.len())?;
        let arguments = Clear { numbers: numbers.pointer(), stretches };
        // SAFETY: the layout of `Clear`; every stretch ends inside `numbers`.
        unsafe { self.clear.launch(Grid::new(blocks, THREADS), &arguments) }?;
        Ok(())
    }

    /// Adds the rows of `from`, f32 `[rows, c]`, times `scale` `[c]`, to `to`: the gradient through
    /// [`TrainOptimizer::split`].
    ///
    /// # Errors
    /// Lengths that do not agree, or a failed device.
    pub fn add_scaled(
        &self,
        from: DeviceSlice<'_, f32>,
        scale: DeviceSlice<'_, f32>,
        to: DeviceSlice<'_, f32>,
    ) -> Result<(), KernelError> {
        check_at_least(OP, "what is added", to.len(), from.len())?;
        check_length(OP, "the scale", self.width, scale.len())?;
        let arguments = AddScaled {
            from: from.pointer(),
            scale: scale.pointer(),
            to: to.pointer(),
            count: to.len() as u64,
        };
        // SAFETY: the layout of `AddScaled`; lengths as just checked.
        unsafe {
            self.add_scaled.launch(Grid::new(to.len().div_ceil(THREADS as usize), THREADS), &arguments)
        }?;
        Ok(())
    }
}
