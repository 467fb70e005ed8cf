//! The two GELUs and their slopes, as vectors.

use crate::simd::Simd;
use crate::simd::exp::exp;

/// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`, GPT-2's form, as x times a sigmoid: there the negative
/// tail has no cancellation.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(simd: S, x: S::V) -> S::V {
    simd.div(x, simd.add(simd.splat(1.0), tanh_tail(simd, x)))
}

/// e to the minus argument of the sigmoid.
#[inline(always)]
fn tanh_tail<S: Simd>(simd: S, x: S::V) -> S::V {
    // -2 * sqrt(2/pi), and that times 0.044715.
    let inner = simd.mul_add(simd.mul(x, x), simd.splat(-0.071_354_814), simd.splat(-1.595_769_2));
    exp(simd, simd.mul(x, inner))
}

/// The derivative of [`gelu_tanh`].
#[inline(always)]
pub(crate) fn gelu_tanh_slope<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.0);
    // Beyond 10 the slope is 0 or 1 in f32, and up to there the tail is finite.
    let x = within(simd, x, 10.0);
    let tail = tanh_tail(simd, x);
    let share = simd.div(one, simd.add(one, tail));
    // Of the sigmoid's argument, three times the cubic coefficient.
    let inner = simd.mul_add(simd.mul(x, x), simd.splat(0.214_064_44), simd.splat(1.595_769_2));
    // The other share as a product: one minus this one would keep few bits where it is small.
    simd.mul_add(simd.mul(simd.mul(x, share), simd.mul(tail, share)), inner, share)
}

/// `x/2 * (1 + erf(x / sqrt(2)))`.
#[inline(always)]
pub(crate) fn gelu_erf<S: Simd>(simd: S, x: S::V) -> S::V {
    let (share, _) = normal(simd, x);
    simd.mul(x, share)
}

/// The derivative of [`gelu_erf`].
#[inline(always)]
pub(crate) fn gelu_erf_slope<S: Simd>(simd: S, x: S::V) -> S::V {
    // Beyond 16 the slope is 0 or 1 in f32; there infinity would meet zero.
    let x = within(simd, x, 16.0);
    let (share, gauss) = normal(simd, x);
    // 1 / sqrt(2 pi).
    simd.mul_add(simd.mul(x, gauss), simd.splat(0.398_942_3), share)
}

/// The nearest number within `-limit..=limit`; NaN stays.
#[inline(always)]
fn within<S: Simd>(simd: S, x: S::V, limit: f32) -> S::V {
    simd.max(simd.splat(-limit), simd.min(simd.splat(limit), x))
}

/// The normal distribution function, and `e^(-x^2/2)`.
///
/// erfc by Abramowitz and Stegun (1964), 7.1.26: its absolute error of 1.5e-7 is f32's own near 1.
#[inline(always)]
fn normal<S: Simd>(simd: S, x: S::V) -> (S::V, S::V) {
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
    (simd.select_less(x, zero, half_erfc, simd.sub(one, half_erfc)), gauss)
}
