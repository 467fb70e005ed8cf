//! The alpha-sigmoid: the first coordinate of the two-class alpha-entmax of (x, 0) (Peters, Niculae and Martins, 2019,
//! arXiv 1905.05702), which turns a gate's raw score into a vote.
//!
//! With a = alpha - 1 it is the p in 0..=1 with `p^a - (1-p)^a = a x`, and exactly 0 or 1 where |x| >= 1/a; its slope is
//! `1 / (p^(a-1) + (1-p)^(a-1))`. Both are solved for the smaller of p and 1-p, by its logarithm, so neither end loses
//! precision: the usual way, bisecting the threshold of the entmax, is off by up to 0.08 at alpha 8 in f32.

mod exact;
mod solve;
#[cfg(test)]
mod tests;

#[cfg(test)]
use solve::solve;
pub(crate) use solve::solve_vector;

use crate::KernelError;
use crate::simd::MESH_SHIFT;

/// Up to here the curve is the logistic function: the difference is below 3e-6 and f32 could not show it.
const LOGISTIC: f64 = 1e-5;
/// The steepest curve: its slope of 2^29 at 0 is a step to any f32 score, and its cubics still fit an f32.
const STEEPEST: f64 = 32.0;

/// The curve of one alpha, prepared for many evaluations.
///
/// Preparing solves the equation in f64 at about 500 points, which takes a fraction of a millisecond.
#[derive(Debug, Clone)]
pub struct AlphaSigmoid {
    alpha: f64,
    /// alpha - 1, or 0 for the logistic function.
    a: f64,
    /// 1 / a in two parts; infinite and 0 for the logistic function.
    bound: [f32; 2],
    /// Where the mesh begins, and how far from there a coordinate may be.
    mesh_start: f32,
    mesh_length: f32,
    /// A cubic per cell, from the cell's start, constant term first: the logarithm of the smaller of p and 1-p by the
    /// coordinate `-ln(1 - a |x|) / min(a, 1)` (|x| for the logistic function).
    cells: Vec<[f32; 4]>,
    /// The number of the first cell.
    origin: u32,
}

/// One evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Vote {
    /// The value.
    pub p: f32,
    /// 1 - p, with its own full relative precision.
    pub q: f32,
    /// dp/dx; 0 where p is exactly 0 or 1.
    pub slope: f32,
}

impl AlphaSigmoid {
    /// The curve of `alpha`; up to 1 + 1e-5 it is the logistic function.
    ///
    /// Errors: alpha is not within 1..=32.
    pub fn new(alpha: f64) -> Result<Self, KernelError> {
        if !(1.0..=STEEPEST).contains(&alpha) {
            return Err(KernelError::Invalid {
                op: "alpha_sigmoid",
                expected: format!("an alpha within 1..={STEEPEST}"),
                got: alpha.to_string(),
            });
        }
        let a = if alpha - 1.0 <= LOGISTIC { 0.0 } else { alpha - 1.0 };
        let bound = 1.0 / a;
        let bound = [bound as f32, if a > 0.0 { (bound - f64::from(bound as f32)) as f32 } else { 0.0 }];
        // Near x = 0 a steep curve bends within 2^(2-a) of its coordinate's range, so the mesh starts that fine there.
        let mesh_start = (2.0 - a).min(0.0).exp2() as f32;
        let mesh_start = f32::from_bits(mesh_start.to_bits() >> MESH_SHIFT << MESH_SHIFT);
        // Beyond this p is 0 in f32 or x is nearer to its bound than two f32 can say.
        let mesh_length = if a <= 1.0 { 106.0 } else { 40.0 };
        let origin = mesh_start.to_bits() >> MESH_SHIFT;
        let last = (mesh_start + mesh_length).to_bits() >> MESH_SHIFT;
        let coordinate = |cell: u32| f64::from(f32::from_bits(cell << MESH_SHIFT)) - f64::from(mesh_start);
        let nodes = (origin..=last + 1).map(|cell| {
            let y = coordinate(cell);
            (y, exact::log_smaller(a, y))
        });
        let nodes: Vec<_> = nodes.collect();
        let cells = nodes.windows(2).map(|pair| exact::hermite(pair[0], pair[1])).collect();
        Ok(Self { alpha, a, bound, mesh_start, mesh_length, cells, origin })
    }

    /// The curve as kernels of a device read it (`gated_attention/cuda/curve.cuh`): eight numbers, then the cells.
    pub(crate) fn device_numbers(&self) -> Vec<f32> {
        let last = self.cells.len().saturating_sub(1) as u32;
        let mut numbers = vec![
            self.a as f32,
            self.bound[0],
            self.bound[1],
            self.mesh_start,
            self.mesh_length,
            if self.a > 0.0 { (-1.0 / self.a.min(1.0)) as f32 } else { -1.0 },
            f32::from_bits(self.origin),
            f32::from_bits(last),
        ];
        numbers.extend(self.cells.iter().flatten());
        numbers
    }

    /// The alpha that it was made for.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The value at `x`; exactly 0 or 1 where |x| >= 1/(alpha-1).
    pub fn value(&self, x: f32) -> f32 {
        self.value_and_slope(x).p
    }

    /// Value, complement and slope at `x`, solved in f64 and rounded once.
    pub fn value_and_slope(&self, x: f32) -> Vote {
        exact::vote(self.a, f64::from(x))
    }
}
