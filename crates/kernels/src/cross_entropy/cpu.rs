//! The loss, a row at a time, rows shared out over the threads.

use super::{IGNORE, Judged, RowLoss};
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

/// `row_losses` of checked operands and a vocabulary of at least one token.
pub(super) fn row_losses(
    team: &Team,
    isa: Isa,
    logits: &[f32],
    vocabulary: usize,
    targets: &[u32],
    teacher: Option<&[f32]>,
    judged: &mut [Judged],
) {
    let rows_each = (TASK_ELEMENTS / vocabulary).max(1);
    let judged = Pieces::new(judged);
    team.run(targets.len().div_ceil(rows_each), &|task| {
        let first = task * rows_each;
        // SAFETY: each row is one task's.
        let judged = unsafe { judged.range(first, targets.len().min(first + rows_each) - first) };
        for (row, judged) in (first..).zip(judged) {
            let at = row * vocabulary;
            let logits = &logits[at..at + vocabulary];
            let teacher = teacher.map(|teacher| &teacher[at..at + vocabulary]);
            *judged = isa.run(Look { logits, target: targets[row], teacher });
        }
    });
}

struct Look<'a> {
    logits: &'a [f32],
    target: u32,
    teacher: Option<&'a [f32]>,
}

impl Kernel for Look<'_> {
    type Output = Judged;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Judged {
        let Self { mut logits, target, teacher } = self;
        let top = largest(simd, logits);
        let likeliest = logits.iter().position(|&logit| logit == top).unwrap_or(0) as u32;
        if target == IGNORE {
            return Judged { loss: RowLoss::default(), likeliest };
        }
        let chosen = f64::from(logits[target as usize]) - f64::from(top);
        let teacher = teacher.map(|teacher| (teacher, largest(simd, teacher)));
        Judged { loss: weigh(simd, &mut logits, top, teacher).loss(chosen, teacher.is_some()), likeliest }
    }
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
        let Self { mut logits, target, teacher, distill, scale } = self;
        let top = largest(simd, logits);
        let chosen = f64::from(logits[target]) - f64::from(top);
        let teacher = teacher.map(|teacher| (teacher, largest(simd, teacher)));
        let sums = weigh(simd, &mut logits, top, teacher);
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
        sums.loss(chosen, teacher.is_some())
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

impl Sums {
    /// What a row loses whose target's logit is so far from the largest.
    #[inline(always)]
    fn loss(self, chosen: f64, taught: bool) -> RowLoss {
        let log_sum = self.student.ln();
        let divergence = if taught { self.cross / self.teacher - self.teacher.ln() + log_sum } else { 0.0 };
        // Rounding must not make it negative.
        let divergence = if divergence < 0.0 { 0.0 } else { divergence };
        let entropy = log_sum - self.own / self.student;
        let entropy = if entropy < 0.0 { 0.0 } else { entropy };
        RowLoss {
            cross_entropy: (log_sum - chosen) as f32,
            divergence: divergence as f32,
            entropy: entropy as f32,
        }
    }
}

/// A row of logits that is added up, and becomes its exponentials if somebody wants them.
trait Weighed {
    fn logits(&self) -> &[f32];
    fn keep<S: Simd>(&mut self, simd: S, at: usize, weight: S::V);
}

impl Weighed for &mut [f32] {
    #[inline(always)]
    fn logits(&self) -> &[f32] {
        self
    }

    #[inline(always)]
    fn keep<S: Simd>(&mut self, simd: S, at: usize, weight: S::V) {
        write(simd, &mut self[at..], weight);
    }
}

impl Weighed for &[f32] {
    #[inline(always)]
    fn logits(&self) -> &[f32] {
        self
    }

    #[inline(always)]
    fn keep<S: Simd>(&mut self, _: S, _: usize, _: S::V) {}
}

/// Adds up a row whose largest logit is `top`, beside its teacher's and the largest of that.
#[inline(always)]
fn weigh<S: Simd>(simd: S, row: &mut impl Weighed, top: f32, teacher: Option<(&[f32], f32)>) -> Sums {
    match teacher {
        None => add_up::<S, false>(simd, row, top, &[], 0.0),
        Some((teacher, teacher_top)) => add_up::<S, true>(simd, row, top, teacher, teacher_top),
    }
}

#[inline(always)]
fn add_up<S: Simd, const TEACHER: bool>(
    simd: S,
    row: &mut impl Weighed,
    top: f32,
    teacher: &[f32],
    teacher_top: f32,
) -> Sums {
    let zero = simd.splat(0.0);
    let (top, teacher_top) = (simd.splat(top), simd.splat(teacher_top));
    let mut sums = Sums { student: 0.0, teacher: 0.0, own: 0.0, cross: 0.0 };
    let length = row.logits().len();
    for first in (0..length).step_by(BLOCK) {
        let last = length.min(first + BLOCK);
        let (mut student, mut taught, mut weighed, mut cross) = (zero, zero, zero, zero);
        for at in (first..last).step_by(S::LANES) {
            // Lanes past the end weigh nothing.
            let own = simd.sub(read(simd, &row.logits()[at..], f32::NEG_INFINITY), top);
            let weight = exp(simd, own);
            student = simd.add(student, weight);
            // What weighs nothing adds nothing, be its logit minus infinity.
            let term = simd.mul(weight, own);
            weighed = simd.add(weighed, simd.select_less(zero, weight, term, weight));
            row.keep(simd, at, weight);
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
