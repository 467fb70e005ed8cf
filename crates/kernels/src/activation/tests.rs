//! The activations against their f64 twins.

use proptest::prelude::*;

use super::*;
use crate::simd::{Kernel, Simd};

struct Gelu<'a> {
    x: &'a [f32],
    tanh: bool,
}

impl Kernel for Gelu<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut out = vec![0.0; self.x.len()];
        for (x, out) in self.x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            let x = simd.read_partial(x, 0.0);
            let y = if self.tanh { gelu::gelu_tanh(simd, x) } else { gelu::gelu_erf(simd, x) };
            simd.write_partial(out, y);
        }
        out
    }
}

#[test]
fn the_gelus_are_within_two_parts_in_a_million() {
    let x: Vec<f32> = (0..400_000).map(|i| (i as f32 - 200_000.0) / 15_000.0).collect();
    for &isa in Isa::available() {
        for tanh in [true, false] {
            let exact = if tanh { reference::gelu_tanh } else { reference::gelu_erf };
            for (&x, y) in x.iter().zip(isa.run(Gelu { x: &x, tanh })) {
                let want = exact(f64::from(x));
                let error = (f64::from(y) - want).abs();
                // In the negative tail the result vanishes beside x; there 4e-7 of x is the promise.
                assert!(
                    error <= 2e-6 * want.abs() || error <= 4e-7 * f64::from(x.abs()),
                    "{isa:?} {tanh} {x}: {y}"
                );
                assert!(error <= 4e-7 * f64::from(x.abs()), "{isa:?} {tanh} {x}: {y}, want {want}");
            }
        }
    }
}

#[test]
fn a_gelu_of_a_large_number_is_that_number_or_zero() {
    for &isa in Isa::available() {
        for tanh in [true, false] {
            let y = isa.run(Gelu { x: &[1e4, 1e30, -1e4, -1e12, 0.0, f32::NAN], tanh });
            assert_eq!(y[..5], [1e4, 1e30, 0.0, 0.0, 0.0], "{isa:?} {tanh}");
            assert!(y[5].is_nan());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn silu_mul_agrees_with_the_reference(rows in 0usize..50, width in 1usize..600, scale in 0.1f32..30.0, shift: u16) {
        let team = Team::new(2).unwrap();
        let x: Vec<f32> = (0..rows * 2 * width).map(|i| ((i * 7919 + shift as usize) % 2003) as f32).collect();
        let x: Vec<f32> = x.into_iter().map(|x| (x / 1001.0 - 1.0) * scale).collect();
        let want = reference::silu_mul(&x, width);
        for &isa in Isa::available() {
            let mut out = vec![0.0; rows * width];
            silu_mul_with(isa, &team, &x, width, &mut out).unwrap();
            for (&got, &want) in out.iter().zip(&want) {
                prop_assert!((f64::from(got) - want).abs() <= 6e-7 * want.abs() + 1e-30, "{:?}: {} {}", isa, got, want);
            }
            for row in 0..rows {
                let mut alone = vec![0.0; width];
                silu_mul_with(isa, &team, &x[row * 2 * width..(row + 1) * 2 * width], width, &mut alone).unwrap();
                prop_assert_eq!(&alone[..], &out[row * width..(row + 1) * width]);
            }
        }
    }
}

#[test]
fn wrong_shapes_are_typed_errors() {
    let team = Team::new(1).unwrap();
    let call =
        |x: usize, width: usize, out: usize| silu_mul(&team, &vec![0.0; x], width, &mut vec![0.0; out]);
    assert_eq!(call(12, 3, 6), Ok(()));
    assert_eq!(call(0, 3, 0), Ok(()));
    assert_eq!(call(0, 0, 0), Ok(()));
    for (x, width, out) in [(12, 4, 6), (11, 3, 6), (12, 0, 6)] {
        assert!(matches!(call(x, width, out), Err(KernelError::Length { .. })));
    }
}
