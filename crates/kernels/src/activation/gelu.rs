//! The two GELUs, as vectors, for the epilogue of a matrix product.

use crate::simd::Simd;
use crate::simd::exp::exp;

/// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`, GPT-2's form, as x times a sigmoid: there the negative
/// tail has no cancellation.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::V) -> S::V {
    // -2 * sqrt(2/pi), and that times 0.044715.
    let inner = simd.mul_add(simd.mul(x, x), simd.splat(-0.071_354_814), simd.splat(-1.595_769_2));
    let e = exp(simd, simd.mul(x, inner));
    simd.div(x, simd.add(simd.splat(1.0), e))
}

/// `x/2 * (1 + erf(x / sqrt(2)))`.
///
/// erfc by Abramowitz and Stegun (1964), 7.1.26: its absolute error of 1.5e-7 is f32's own near 1.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.0);
    let zero = simd.splat(0.0);
    let z = simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2));
    let z = simd.max(z, simd.sub(zero, z));
    let t = simd.div(one, simd.mul_add(simd.splat(0.327_591_1), z, one));
    let mut p = simd.splat(1.061_405_4);
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        p = simd.mul_add(p, t, simd.splat(coefficient));
    }
    let gauss = exp(simd, simd.sub(zero, simd.mul(z, z)));
    let half_erfc = simd.mul(simd.mul(simd.mul(p, t), gauss), simd.splat(0.5));
    simd.mul(x, simd.select_less(x, zero, half_erfc, simd.sub(one, half_erfc)))
}
