//! The curve on vectors.

use super::AlphaSigmoid;
use crate::simd::Simd;
use crate::simd::exp::exp;
use crate::simd::log::log;

/// `ln` of less than this is 0 in f32.
const LOWEST: f32 = -103.5;

/// What a vector of raw scores becomes.
#[derive(Clone, Copy)]
pub(crate) struct Votes<V> {
    /// The votes.
    #[allow(
        dead_code,
        reason = "attention adds logarithms; the tests compare this one with the golden values"
    )]
    pub(crate) p: V,
    /// Their logarithms: -inf where p is 0 (in f32), 0 where it is exactly 1.
    pub(crate) log_p: V,
    /// `d log_p / dx`: 0 where p is 0 (in f32) or exactly 1.
    pub(crate) slope_over_p: V,
}

/// Writes the votes of `x`, their logarithms and `d log_p / dx` to slices of the same length.
///
/// Element by element. log_p = -inf and slope_over_p = 0 where p is 0 in f32; both are 0 where p is exactly 1; all are
/// NaN where x is.
#[cfg(test)]
#[inline(always)]
pub(crate) fn solve<S: Simd>(
    simd: S,
    curve: &AlphaSigmoid,
    x: &[f32],
    p: &mut [f32],
    log_p: &mut [f32],
    slope_over_p: &mut [f32],
) {
    debug_assert!(x.len() == p.len() && x.len() == log_p.len() && x.len() == slope_over_p.len());
    let outs = p.chunks_mut(S::LANES).zip(log_p.chunks_mut(S::LANES)).zip(slope_over_p.chunks_mut(S::LANES));
    for (x, ((p, log_p), slope_over_p)) in x.chunks(S::LANES).zip(outs) {
        if x.len() == S::LANES {
            let votes = solve_vector(simd, curve, simd.read(x));
            simd.write(p, votes.p);
            simd.write(log_p, votes.log_p);
            simd.write(slope_over_p, votes.slope_over_p);
        } else {
            let votes = solve_vector(simd, curve, simd.read_partial(x, 0.0));
            simd.write_partial(p, votes.p);
            simd.write_partial(log_p, votes.log_p);
            simd.write_partial(slope_over_p, votes.slope_over_p);
        }
    }
}

/// [`solve`] of one vector.
#[inline(always)]
pub(crate) fn solve_vector<S: Simd>(simd: S, curve: &AlphaSigmoid, x: S::V) -> Votes<S::V> {
    let (zero, one) = (simd.splat(0.0), simd.splat(1.0));
    let a = simd.splat(curve.a as f32);
    let size = simd.max(x, simd.sub(zero, x));
    let shift = simd.mul(a, size);
    let (y, width) = if curve.a == 0.0 {
        (simd.min(simd.splat(curve.mesh_length), size), one)
    } else {
        // 1 - a |x|, from whichever end loses less: near the bound the difference of x and the bound is exact.
        let [bound, bound_rest] = curve.bound;
        let edge = simd.add(simd.sub(simd.splat(bound), size), simd.splat(bound_rest));
        let half = simd.splat(0.5);
        let inner = simd.sub(one, shift);
        let width = simd.select_less(shift, half, inner, simd.mul(a, edge));
        let rest = simd.select_less(shift, half, simd.sub(simd.sub(one, inner), shift), zero);
        // A saturated lane is computed as if it were just inside, and replaced below.
        let inside = simd.max(simd.splat(f32::MIN_POSITIVE), width);
        let y = simd.mul(log(simd, inside, rest), simd.splat((-1.0 / curve.a.min(1.0)) as f32));
        (simd.max(zero, simd.min(simd.splat(curve.mesh_length), y)), width)
    };
    let (at, [c0, c1, c2, c3]) =
        simd.mesh(simd.add(y, simd.splat(curve.mesh_start)), curve.origin, &curve.cells);
    let t = simd.mul_add(simd.mul_add(simd.mul_add(c3, at, c2), at, c1), at, c0);
    let small = exp(simd, t);
    let small_power = exp(simd, simd.mul(a, t));
    // (1-s)^a, by the equation itself.
    let large_power = simd.add(small_power, shift);
    let large = simd.sub(one, small);
    let log_large = log(simd, large, simd.sub(simd.sub(one, large), small));
    // 1 / (p^a + p (1-p)^(a-1)), on either side.
    let low = simd.mul_add(simd.div(small, large), large_power, small_power);
    let high = simd.mul_add(simd.div(large, small), small_power, large_power);
    let slope = simd.div(one, simd.select_less(x, zero, low, high));
    // Also what is 0 in f32. NaN compares as false and so comes through.
    let saturated = simd.select_less(width, simd.splat(f32::MIN_POSITIVE), one, zero);
    let saturated = simd.select_less(t, simd.splat(LOWEST), one, saturated);
    let log_of_zero = simd.splat(f32::NEG_INFINITY);
    let p = simd.select_less(x, zero, small, large);
    let log_p = simd.select_less(x, zero, t, log_large);
    Votes {
        p: simd.select_less(zero, saturated, simd.select_less(x, zero, zero, one), p),
        log_p: simd.select_less(zero, saturated, simd.select_less(x, zero, log_of_zero, zero), log_p),
        slope_over_p: simd.select_less(zero, saturated, zero, slope),
    }
}
