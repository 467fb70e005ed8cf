//! exp, and the sigmoid made of it.

use super::Simd;

/// e^x within 1e-7 relative to the exact value for normal results; gradual underflow to 0, overflow to infinity, NaN
/// stays NaN.
///
/// Cody-Waite reduction to |r| <= ln(2)/2 and the degree 7 polynomial of Cephes' `expf` (S. Moshier, 1992).
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    // Beyond these bounds the result is 0 or infinity anyway; the second operand is what min and max make of NaN.
    let x = simd.max(simd.splat(-104.0), x);
    let x = simd.min(simd.splat(89.0), x);
    let n = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    // ln(2) in two parts, the first with so few bits that n times it is exact.
    let r = simd.mul_add(n, simd.splat(-0.693_359_4), x);
    let r = simd.mul_add(n, simd.splat(2.121_944_4e-4), r);
    let mut p = simd.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = simd.mul_add(p, r, simd.splat(coefficient));
    }
    let tail = simd.mul_add(p, simd.mul(r, r), r);
    simd.scale(simd.add(tail, simd.splat(1.0)), n)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.0);
    simd.div(one, simd.add(one, exp(simd, simd.sub(simd.splat(0.0), x))))
}
