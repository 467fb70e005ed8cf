//! The step and the norm, in pieces shared out over the threads.

use super::{AdamW, Constants};
use crate::Team;
use crate::chunks::{Pieces, TASK_ELEMENTS};
use crate::simd::{Isa, Kernel, Simd};

/// `adamw` of checked operands.
pub(super) fn adamw(
    team: &Team,
    isa: Isa,
    step: &AdamW,
    parameters: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let tasks = parameters.len().div_ceil(TASK_ELEMENTS);
    let (parameters, first, second) = (Pieces::new(parameters), Pieces::new(first), Pieces::new(second));
    let constants = Constants::of(step);
    team.run(tasks, &|task| {
        let at = task * TASK_ELEMENTS;
        // SAFETY: each range is one task's.
        let (parameters, first, second) = unsafe {
            (
                parameters.range(at, TASK_ELEMENTS),
                first.range(at, TASK_ELEMENTS),
                second.range(at, TASK_ELEMENTS),
            )
        };
        let gradients = &gradients[at..at + parameters.len()];
        isa.run(Step { step, constants, parameters, gradients, first, second });
    });
}

struct Step<'a> {
    step: &'a AdamW,
    constants: Constants,
    parameters: &'a mut [f32],
    gradients: &'a [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { step, constants, parameters, gradients, first, second } = self;
        let whole = parameters.len() / S::LANES * S::LANES;
        for at in (0..whole).step_by(S::LANES) {
            let p = simd.read(&parameters[at..]);
            let (g, m, v) = (simd.read(&gradients[at..]), simd.read(&first[at..]), simd.read(&second[at..]));
            let [p, m, v] = moved(simd, step, constants, [p, g, m, v]);
            simd.write(&mut parameters[at..], p);
            simd.write(&mut first[at..], m);
            simd.write(&mut second[at..], v);
        }
        if whole < parameters.len() {
            let p = simd.read_partial(&parameters[whole..], 0.0);
            let g = simd.read_partial(&gradients[whole..], 0.0);
            let m = simd.read_partial(&first[whole..], 0.0);
            let v = simd.read_partial(&second[whole..], 0.0);
            let [p, m, v] = moved(simd, step, constants, [p, g, m, v]);
            simd.write_partial(&mut parameters[whole..], p);
            simd.write_partial(&mut first[whole..], m);
            simd.write_partial(&mut second[whole..], v);
        }
    }
}

/// Parameter and moments after the step.
#[inline(always)]
fn moved<S: Simd>(simd: S, step: &AdamW, constants: Constants, state: [S::V; 4]) -> [S::V; 3] {
    let [p, g, m, v] = state;
    let g = simd.mul(g, simd.splat(step.gradient_scale));
    // As torch's lerp.
    let m = simd.mul_add(simd.sub(g, m), simd.splat(1.0 - step.beta1), m);
    let v = simd.mul_add(simd.mul(g, g), simd.splat(1.0 - step.beta2), simd.mul(v, simd.splat(step.beta2)));
    let root = simd.add(simd.div(simd.sqrt(v), simd.splat(constants.root)), simd.splat(step.epsilon));
    let way = simd.div(simd.mul(m, simd.splat(constants.rate)), root);
    let p = simd.sub(simd.mul(p, simd.splat(constants.decay)), way);
    [p, m, v]
}

/// See `sum_of_squares` beside `adamw`.
pub(super) fn sum_of_squares(team: &Team, isa: Isa, x: &[f32]) -> f64 {
    let mut partials = vec![0.0; x.len().div_ceil(TASK_ELEMENTS)];
    let pieces = Pieces::new(&mut partials);
    team.run(x.len().div_ceil(TASK_ELEMENTS), &|task| {
        let x = &x[task * TASK_ELEMENTS..x.len().min((task + 1) * TASK_ELEMENTS)];
        // SAFETY: each partial sum is one task's.
        unsafe { pieces.range(task, 1) }.fill(isa.run(Squares(x)));
    });
    partials.iter().sum()
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        // Chains enough for any vector width; the compiler makes vectors of f64 of them.
        let mut sums = [0.0; 32];
        let (blocks, rest) = self.0.as_chunks::<32>();
        for block in blocks {
            for (sum, &x) in sums.iter_mut().zip(block) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        sums.iter().sum::<f64>() + rest
    }
}
