//! The natural logarithm.

use super::Simd;

/// ln(a + rest) within 2e-7 relative for positive normal `a` and a `rest` far below it: what rounding took from `a`, so
/// that `ln(1 + v)` keeps its relative precision for small v.
///
/// The mantissa's logarithm by the degree 8 polynomial of Cephes' `logf` (S. Moshier, 1992).
#[inline(always)]
pub(crate) fn log<S: Simd>(simd: S, a: S::V, rest: S::V) -> S::V {
    let (mantissa, exponent) = simd.split(a);
    let f = simd.sub(mantissa, simd.splat(1.0));
    let mut p = simd.splat(7.037_683_6e-2);
    for coefficient in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = simd.mul_add(p, f, simd.splat(coefficient));
    }
    let square = simd.mul(f, f);
    let mut low = simd.mul(simd.mul(p, f), square);
    // ln(2) in two parts, the first with so few bits that the exponent times it is exact.
    low = simd.mul_add(exponent, simd.splat(-2.121_944_4e-4), low);
    low = simd.mul_add(square, simd.splat(-0.5), low);
    low = simd.add(low, simd.div(rest, a));
    simd.mul_add(exponent, simd.splat(0.693_359_4), simd.add(f, low))
}
