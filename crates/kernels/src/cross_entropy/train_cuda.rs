//! The loss on the device.

use super::{IGNORE, RowLoss};
use crate::KernelError;
use crate::cuda::{
    Argument, Device, DeviceBuffer, DeviceSlice, Function, Grid, Module, Source, Specialisation,
    kernel_struct,
};
use crate::error::{check_at_least, checked_size};

pub(crate) const TRAIN_SOURCE: Source = Source {
    file: "cross_entropy/train.cu",
    text: concat!(include_str!("../cuda/vectors.cuh"), include_str!("train.cu")),
    constants: |_, _| vec![("THREADS", THREADS as usize), ("IGNORE", IGNORE as usize)],
    arguments: &[Arguments::LAYOUT],
};

const OP: &str = "cross_entropy on the device";
const THREADS: u32 = 512;

/// The loss of slices of rows, and its gradient.
#[derive(Debug, Clone)]
pub struct TrainCrossEntropy {
    by_fours: Function,
    by_ones: Function,
}

kernel_struct! {
    struct Arguments as CrossEntropy {
        logits: u64,
        teacher: u64,
        targets: u64,
        losses: u64,
        stride: u32,
        vocabulary: u32,
        distill: f32,
        scale: f32,
    }
}

/// How a row's two losses are weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shares {
    /// Of the divergence; the cross-entropy has the rest.
    pub distill: f32,
    /// What gradients are multiplied by.
    pub scale: f32,
}

impl TrainCrossEntropy {
    /// Compiles the kernel, or takes it from the cache.
    ///
    /// # Errors
    /// As [`Module::load`].
    pub fn new(device: &Device, specialisation: &Specialisation) -> Result<Self, KernelError> {
        let module = Module::load(device, &TRAIN_SOURCE, specialisation)?;
        Ok(Self {
            by_fours: module.function("cross_entropy_4", 0)?,
            by_ones: module.function("cross_entropy_1", 0)?,
        })
    }

    /// As [`cross_entropy`](super::cross_entropy()), of `logits` and `teacher`, f32 `[targets, stride]` of which the first
    /// `vocabulary` columns count. The gradient, W, takes the place of the logits: row i begins where it began, so that as W
    /// its stride is `4 / W's bytes` times as many, and behind the vocabulary it is zero. `losses`, f32 `[targets, 3]`, are the fields of
    /// [`RowLoss`].
    ///
    /// Targets are the caller's promise to be below the vocabulary, or [`IGNORE`].
    ///
    /// # Errors
    /// Lengths that do not agree, a share outside 0..=1 or above 0 without a teacher, or a failed device.
    #[expect(clippy::too_many_arguments, reason = "the operation's own arguments")]
    pub fn slice(
        &self,
        vocabulary: usize,
        stride: usize,
        logits: &DeviceBuffer<f32>,
        teacher: Option<&DeviceBuffer<f32>>,
        targets: DeviceSlice<'_, u32>,
        shares: Shares,
        losses: DeviceSlice<'_, f32>,
    ) -> Result<(), KernelError> {
        let rows = targets.len();
        let count = checked_size(OP, &[rows, stride])?;
        check_at_least(OP, "stride", vocabulary, stride)?;
        check_at_least(OP, "logits", count, logits.len())?;
        check_at_least(OP, "losses", RowLoss::NUMBERS * rows, losses.len())?;
        if let Some(teacher) = teacher {
            check_at_least(OP, "teacher", count, teacher.len())?;
        }
        let most = if teacher.is_some() { 1.0 } else { 0.0 };
        if !(0.0..=most).contains(&shares.distill) || vocabulary == 0 {
            return Err(KernelError::Invalid {
                op: OP,
                expected: "a vocabulary, and a share of distillation in 0..=1, or 0 without a teacher"
                    .to_owned(),
                got: format!("{vocabulary} tokens, {}", shares.distill),
            });
        }
        let arguments = Arguments {
            logits: logits.pointer(),
            teacher: teacher.map_or(0, DeviceBuffer::pointer),
            targets: targets.pointer(),
            losses: losses.pointer(),
            stride: stride as u32,
            vocabulary: vocabulary as u32,
            distill: shares.distill,
            scale: shares.scale,
        };
        let function = if stride.is_multiple_of(4) { &self.by_fours } else { &self.by_ones };
        // SAFETY: the layout of `CrossEntropy`; lengths as just checked.
        unsafe { function.launch(Grid::new(rows, THREADS), &arguments) }?;
        Ok(())
    }

    /// Refuses targets that are neither tokens nor [`IGNORE`].
    ///
    /// # Errors
    /// The first such target.
    pub fn check_targets(targets: &[u32], vocabulary: usize) -> Result<(), KernelError> {
        match targets.iter().find(|&&target| target != IGNORE && target as usize >= vocabulary) {
            None => Ok(()),
            Some(target) => Err(KernelError::Invalid {
                op: OP,
                expected: format!("targets below the vocabulary of {vocabulary}, or {IGNORE}"),
                got: target.to_string(),
            }),
        }
    }
}
