//! AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101), step for step as `torch.optim.AdamW`.

mod cpu;
#[cfg(test)]
mod tests;
mod train_cuda;
#[cfg(test)]
mod train_cuda_tests;

pub(crate) use train_cuda::TRAIN_SOURCE;
pub use train_cuda::{Judged, Parameters, TrainOptimizer};

use crate::error::check_length;
use crate::simd::Isa;
use crate::{KernelError, Team};

/// One step's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// The step's learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment, in 0..1.
    pub beta1: f32,
    /// Decay of the second moment, in 0..1.
    pub beta2: f32,
    /// Added to the root of the corrected second moment.
    pub epsilon: f32,
    /// Decoupled: each step takes this times the learning rate of a parameter away.
    pub weight_decay: f32,
    /// The step's number, from 1.
    pub step: u64,
    /// Every gradient is multiplied by this first: for clipping and averaging.
    pub gradient_scale: f32,
}

/// What torch adds to a norm that it divides by.
const NORM_EPSILON: f64 = 1e-6;

/// What the gradients of a step decide about it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What gradients that are clipped together are multiplied by.
    pub scale: f32,
    /// Whether all sums of squares are finite: otherwise nothing moves.
    pub moves: bool,
}

impl Verdict {
    /// Of the sums of `squares` of some ranges, the gradients of those that are `clipped` together scaled down to the norm `clip`, as
    /// `torch.nn.utils.clip_grad_norm_` does; 0 for never.
    #[must_use]
    pub fn of(squares: &[f64], clipped: &[bool], clip: f64) -> Self {
        let sum: f64 =
            squares.iter().zip(clipped).filter(|&(_, &is_clipped)| is_clipped).map(|(x, _)| x).sum();
        let scale = if clip > 0.0 { (clip / (sum.sqrt() + NORM_EPSILON)).min(1.0) } else { 1.0 };
        Self { scale: scale as f32, moves: squares.iter().all(|squares| squares.is_finite()) }
    }
}

/// Takes one step: updates the moments `first` and `second` with `gradients` and moves `parameters`, all of one length.
///
/// Element by element: with g the scaled gradient, `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2` and
/// `p = p - lr weight_decay p - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + epsilon)`, the corrections
/// computed in f64. Errors: the lengths differ, a beta is outside 0..1 or the step is 0.
pub fn adamw(
    team: &Team,
    step: &AdamW,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) -> Result<(), KernelError> {
    const OP: &str = "adamw";
    check_length(OP, "gradients", parameters.len(), gradients.len())?;
    check_length(OP, "the first moments", parameters.len(), first.len())?;
    check_length(OP, "the second moments", parameters.len(), second.len())?;
    check_step(step)?;
    cpu::adamw(team, Isa::best(), step, parameters, gradients, first, second);
    Ok(())
}

fn check_step(step: &AdamW) -> Result<(), KernelError> {
    let betas = [step.beta1, step.beta2];
    if step.step == 0 || betas.iter().any(|beta| !(0.0..1.0).contains(beta)) {
        return Err(KernelError::Invalid {
            op: "adamw",
            expected: "betas in 0..1 and a step from 1".to_owned(),
            got: format!("betas {} and {} at step {}", step.beta1, step.beta2, step.step),
        });
    }
    Ok(())
}

/// What a step computes once.
#[derive(Clone, Copy)]
struct Constants {
    /// What remains of a parameter.
    decay: f32,
    /// The learning rate over the first moment's correction.
    rate: f32,
    /// The root of the second moment's correction.
    root: f32,
}

impl Constants {
    fn of(step: &AdamW) -> Self {
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(step.step as f64);
        Self {
            decay: (1.0 - f64::from(step.learning_rate) * f64::from(step.weight_decay)) as f32,
            rate: (f64::from(step.learning_rate) / correction(step.beta1)) as f32,
            root: correction(step.beta2).sqrt() as f32,
        }
    }
}

/// The sum of the squares of `x`, in f64: a gradient's norm before its root.
///
/// The same for any number of threads. NaN and infinity come through, so the result tells of any in `x`.
pub fn sum_of_squares(team: &Team, x: &[f32]) -> f64 {
    cpu::sum_of_squares(team, Isa::best(), x)
}
