//! The loss, a row at a time, rows shared out over the threads.

use super::{IGNORE, RowLoss};
use crate::Team;
use crate::chunks::{Pieces, TASK_ELEMENTS};
use crate::simd::exp::exp;
use crate::simd::{Isa, Kernel, Simd};

/// Elements whose terms are added up in f32, 32 or 64 to a lane, before the sum joins the total in f64.
const BLOCK: usize = 512;

/// `cross_entropy` of checked operands and a vocabulary of at least one token.
#[allow(clippy::too_many_arguments)] // the operation's own arguments
pub(super) fn cross_entropy(
    team: &Team,
    isa: Isa,
    logits: &mut [f32],
    vocabulary: usize,
    targets: &[u32],
    teacher: Option<&[f32]>,
    distill: f32,
    scale: f32,
    losses: &mut [RowLoss],
) {
    let rows_each = (TASK_ELEMENTS / vocabulary).max(1);
    let (logits, losses) = (Pieces::new(logits), Pieces::new(losses));
    team.run(targets.len().div_ceil(rows_each), &|task| {
        let rows = task * rows_each..targets.len().min((task + 1) * rows_each);
        for row in rows {
            let at = row * vocabulary;
            // SAFETY: each row is one task's.
            let (logits, loss) = unsafe { (logits.range(at, vocabulary), losses.range(row, 1)) };
            if targets[row] == IGNORE {
                logits.fill(0.0);
                loss.fill(RowLoss::default());
                continue;
            }
            let teacher = teacher.map(|teacher| &teacher[at..at + vocabulary]);
            loss.fill(isa.run(Row { logits, target: targets[row] as usize, teacher, distill, scale }));
        }
    });
}

struct Row<'a> {
    logits: &'a mut [f32],
    target: usize,
    teacher: Option<&'a [f32]>,
    distill: f32,
    scale: f32,
}

impl Kernel for Row<'_> {
    type Output = RowLoss;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> RowLoss {
        let Self { logits, target, teacher, distill, scale } = self;
        let top = largest(simd, logits);
        let chosen = f64::from(logits[target]) - f64::from(top);
        let teacher = teacher.map(|teacher| (teacher, largest(simd, teacher)));
        let sums = match teacher {
            None => weigh::<S, false>(simd, logits, top, &[], 0.0),
            Some((teacher, teacher_top)) => weigh::<S, true>(simd, logits, top, teacher, teacher_top),
        };
        let onehot = (1.0 - distill) * scale;
        let share = simd.splat((f64::from(scale) / sums.student) as f32);
        match teacher {
            Some((teacher, teacher_top)) if distill > 0.0 => {
                let part = simd.splat((-f64::from(distill) * f64::from(scale) / sums.teacher) as f32);
                let teacher_top = simd.splat(teacher_top);
                for at in (0..logits.len()).step_by(S::LANES) {
                    let taught = exp(simd, simd.sub(read(simd, &teacher[at..], 0.0), teacher_top));
                    let own = simd.mul(read(simd, &logits[at..], 0.0), share);
                    write(simd, &mut logits[at..], simd.mul_add(taught, part, own));
                }
            }
            _ => {
                for at in (0..logits.len()).step_by(S::LANES) {
                    let own = simd.mul(read(simd, &logits[at..], 0.0), share);
                    write(simd, &mut logits[at..], own);
                }
            }
        }
        logits[target] -= onehot;
        let log_sum = sums.student.ln();
        let divergence = match teacher {
            Some(_) => sums.cross / sums.teacher - sums.teacher.ln() + log_sum,
            None => 0.0,
        };
        // Rounding must not make it negative.
        let divergence = if divergence < 0.0 { 0.0 } else { divergence };
        let entropy = log_sum - sums.own / sums.student;
        let entropy = if entropy < 0.0 { 0.0 } else { entropy };
        RowLoss {
            cross_entropy: (log_sum - chosen) as f32,
            divergence: divergence as f32,
            entropy: entropy as f32,
        }
    }
}

/// Sums over a row, of terms relative to the largest.
#[derive(Clone, Copy)]
struct Sums {
    student: f64,
    teacher: f64,
    /// The student's weights times its logits.
    own: f64,
    /// The teacher's weights times the difference of the two logits.
    cross: f64,
}

/// Replaces the logits by their exponentials, and adds up.
#[inline(always)]
fn weigh<S: Simd, const TEACHER: bool>(
    simd: S,
    logits: &mut [f32],
    top: f32,
    teacher: &[f32],
    teacher_top: f32,
) -> Sums {
    let zero = simd.splat(0.0);
    let (top, teacher_top) = (simd.splat(top), simd.splat(teacher_top));
    let mut sums = Sums { student: 0.0, teacher: 0.0, own: 0.0, cross: 0.0 };
    for first in (0..logits.len()).step_by(BLOCK) {
        let last = logits.len().min(first + BLOCK);
        let (mut student, mut taught, mut weighed, mut cross) = (zero, zero, zero, zero);
        for at in (first..last).step_by(S::LANES) {
            // Lanes past the end weigh nothing.
            let own = simd.sub(read(simd, &logits[at..], f32::NEG_INFINITY), top);
            let weight = exp(simd, own);
            student = simd.add(student, weight);
            // What weighs nothing adds nothing, be its logit minus infinity.
            let term = simd.mul(weight, own);
            weighed = simd.add(weighed, simd.select_less(zero, weight, term, weight));
            write(simd, &mut logits[at..], weight);
            if TEACHER {
                let given = simd.sub(read(simd, &teacher[at..], f32::NEG_INFINITY), teacher_top);
                let weight = exp(simd, given);
                taught = simd.add(taught, weight);
                let term = simd.mul(weight, simd.sub(given, own));
                cross = simd.add(cross, simd.select_less(zero, weight, term, weight));
            }
        }
        sums.student += f64::from(simd.sum(student));
        sums.own += f64::from(simd.sum(weighed));
        if TEACHER {
            sums.teacher += f64::from(simd.sum(taught));
            sums.cross += f64::from(simd.sum(cross));
        }
    }
    sums
}

/// The largest of a row.
#[inline(always)]
fn largest<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let mut most = simd.splat(f32::NEG_INFINITY);
    for at in (0..row.len()).step_by(S::LANES) {
        most = simd.max(read(simd, &row[at..], f32::NEG_INFINITY), most);
    }
    simd.largest(most)
}

#[inline(always)]
fn read<S: Simd>(simd: S, from: &[f32], fill: f32) -> S::V {
    if from.len() >= S::LANES { simd.read(from) } else { simd.read_partial(from, fill) }
}

#[inline(always)]
fn write<S: Simd>(simd: S, to: &mut [f32], y: S::V) {
    if to.len() >= S::LANES {
        simd.write(to, y);
    } else {
        simd.write_partial(to, y);
    }
}
