//! The loss of a language model: cross-entropy with the next token, and the divergence from a teacher.

mod cpu;
#[cfg(test)]
mod tests;
mod train_cuda;
#[cfg(test)]
mod train_cuda_tests;

pub(crate) use train_cuda::TRAIN_SOURCE;
pub use train_cuda::{Shares, TrainCrossEntropy};

use crate::error::{check_length, checked_size};
use crate::simd::Isa;
use crate::{KernelError, Team};

/// The target of a row that does not count.
pub const IGNORE: u32 = u32::MAX;

/// The losses of one row, in nats; all 0 where the target is [`IGNORE`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RowLoss {
    /// `-ln softmax(logits)[target]`.
    pub cross_entropy: f32,
    /// KL(teacher || student); 0 without a teacher.
    pub divergence: f32,
    /// `-sum p ln p` of the prediction p: how unsure it is.
    pub entropy: f32,
}

impl RowLoss {
    /// Numbers that one consists of on a device, in the order of its fields.
    pub const NUMBERS: usize = 3;
}

/// What a row of logits says, and what that loses.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Judged {
    /// Its losses.
    pub loss: RowLoss,
    /// The token of the largest logit; the first of equals.
    pub likeliest: u32,
}

/// Judges rows of `logits`, `[t, v]`, by their targets, `[t]`, and beside `teacher`'s, `[t, v]`: the losses of [`cross_entropy`], bit for bit,
/// without a gradient.
/// Errors: lengths that do not agree, a target that is not a token.
pub fn row_losses(
    team: &Team,
    logits: &[f32],
    vocabulary: usize,
    targets: &[u32],
    teacher: Option<&[f32]>,
    judged: &mut [Judged],
) -> Result<(), KernelError> {
    check("row_losses", logits, vocabulary, targets, teacher, judged.len())?;
    if vocabulary > 0 {
        cpu::row_losses(team, Isa::best(), logits, vocabulary, targets, teacher, judged);
    }
    Ok(())
}

fn check(
    op: &'static str,
    logits: &[f32],
    vocabulary: usize,
    targets: &[u32],
    teacher: Option<&[f32]>,
    losses: usize,
) -> Result<(), KernelError> {
    check_length(op, "logits", checked_size(op, &[targets.len(), vocabulary])?, logits.len())?;
    check_length(op, "losses", targets.len(), losses)?;
    if let Some(teacher) = teacher {
        check_length(op, "teacher", logits.len(), teacher.len())?;
    }
    match targets.iter().find(|&&target| target != IGNORE && target as usize >= vocabulary) {
        Some(target) => Err(KernelError::Invalid {
            op,
            expected: format!("targets below the vocabulary of {vocabulary}, or {IGNORE}"),
            got: target.to_string(),
        }),
        None => Ok(()),
    }
}

/// Turns `logits`, `[t, v]`, into the gradient of the loss, and writes the losses of the rows, `[t]`.
///
/// A row's loss is `(1 - distill) cross_entropy + distill divergence` with its target, `[t]`, and the softmax of
/// `teacher`'s row, `[t, v]` logits; its gradient, `softmax(logits) - (1 - distill) onehot - distill softmax(teacher)`,
/// is multiplied by `scale`. Rows with target [`IGNORE`] get a gradient of 0. Row by row, so nothing depends on t.
/// Errors: lengths that do not agree, a target that is not a token, `distill` outside 0..=1 or above 0 without a
/// teacher.
#[allow(clippy::too_many_arguments)] // the operation's own arguments
pub fn cross_entropy(
    team: &Team,
    logits: &mut [f32],
    vocabulary: usize,
    targets: &[u32],
    teacher: Option<&[f32]>,
    distill: f32,
    scale: f32,
    losses: &mut [RowLoss],
) -> Result<(), KernelError> {
    const OP: &str = "cross_entropy";
    check(OP, logits, vocabulary, targets, teacher, losses.len())?;
    let most = if teacher.is_some() { 1.0 } else { 0.0 };
    if !(0.0..=most).contains(&distill) {
        return Err(KernelError::Invalid {
            op: OP,
            expected: "a share of distillation in 0..=1, or 0 without a teacher".to_owned(),
            got: distill.to_string(),
        });
    }
    if vocabulary > 0 {
        cpu::cross_entropy(team, Isa::best(), logits, vocabulary, targets, teacher, distill, scale, losses);
    }
    Ok(())
}
