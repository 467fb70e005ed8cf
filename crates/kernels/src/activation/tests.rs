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

/// The derivative of an f64 function, by differences of the fourth order.
fn slope(f: impl Fn(f64) -> f64, x: f64) -> f64 {
    let h = 1e-3;
    (8.0 * (f(x + h) - f(x - h)) - (f(x + 2.0 * h) - f(x - 2.0 * h))) / (12.0 * h)
}

#[test]
fn the_gelu_alone_is_the_epilogue_and_its_gradient_the_slope() {
    let x: Vec<f32> = (0..40_003).map(|i| (i as f32 - 20_000.0) / 2_500.0).collect();
    let dy: Vec<f32> = (0..x.len()).map(|i| 1.0 + (i % 7) as f32).collect();
    for threads in [1, 3] {
        let team = Team::new(threads).unwrap();
        for (kind, exact) in [
            (GeluKind::Tanh, reference::gelu_tanh as fn(f64) -> f64),
            (GeluKind::Erf, reference::gelu_erf as fn(f64) -> f64),
        ] {
            let (mut y, mut dx) = (vec![0.0; x.len()], vec![9.0; x.len()]);
            gelu(&team, kind, &x, &mut y).unwrap();
            assert_eq!(y, Isa::best().run(Gelu { x: &x, tanh: kind == GeluKind::Tanh }));
            gelu_backward(&team, kind, &x, &dy, &mut dx).unwrap();
            for ((&x, &dy), &dx) in x.iter().zip(&dy).zip(&dx) {
                // The series of erf in the reference stops being exact near 4.
                let want = f64::from(dy)
                    * if x.abs() < 3.9 { slope(exact, f64::from(x)) } else { f64::from(x > 0.0) };
                let allowed = if x.abs() < 3.9 { 1e-6 } else { 1.1e-3 };
                assert!(
                    (f64::from(dx) - want).abs() <= allowed * f64::from(dy),
                    "{kind:?} {x}: {dx}, want {want}"
                );
            }
        }
    }
}

#[test]
fn the_slope_of_a_gelu_far_out_is_one_or_zero() {
    let team = Team::new(1).unwrap();
    for kind in [GeluKind::Tanh, GeluKind::Erf] {
        let x = [1e30, f32::INFINITY, -1e30, f32::NEG_INFINITY, 0.0, f32::NAN];
        let mut dx = [0.0; 6];
        gelu_backward(&team, kind, &x, &[1.0; 6], &mut dx).unwrap();
        assert_eq!(dx[..2], [1.0, 1.0], "{kind:?}");
        assert!(
            dx[2].abs() + dx[3].abs() < 1e-30 && (dx[4] - 0.5).abs() < 1e-6 && dx[5].is_nan(),
            "{kind:?} {dx:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn silu_mul_backward_agrees_with_differences(rows in 0usize..40, width in 1usize..300, seed: u64, scale in 0.1f32..10.0) {
        let mut random = crate::testing::Random(seed);
        let x: Vec<f32> = random.row(rows * 2 * width).iter().map(|x| x * scale).collect();
        let dy = random.row(rows * width);
        let mut dx = vec![9.0; x.len()];
        silu_mul_backward(&Team::new(2).unwrap(), &x, width, &dy, &mut dx).unwrap();
        let mut again = vec![0.0; x.len()];
        silu_mul_backward(&Team::new(3).unwrap(), &x, width, &dy, &mut again).unwrap();
        prop_assert_eq!(&dx, &again);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        for (i, (&dx, &x_here)) in dx.iter().zip(&x).enumerate() {
            let (row, column) = (i / (2 * width), i % (2 * width));
            let dy = f64::from(dy[row * width + column % width]);
            let want = if column < width {
                dy * f64::from(x[i + width]) * slope(silu, f64::from(x_here))
            } else {
                dy * silu(f64::from(x[i - width]))
            };
            prop_assert!((f64::from(dx) - want).abs() < 2e-6 * (1.0 + f64::from(scale)), "{}: {} {}", i, dx, want);
        }
    }
}

#[test]
fn wrong_shapes_of_the_gradients_are_typed_errors() {
    let team = Team::new(1).unwrap();
    assert!(gelu(&team, GeluKind::Erf, &[0.0; 3], &mut [0.0; 2]).is_err());
    assert!(gelu_backward(&team, GeluKind::Erf, &[0.0; 3], &[0.0; 2], &mut [0.0; 3]).is_err());
    assert!(gelu_backward(&team, GeluKind::Erf, &[0.0; 3], &[0.0; 3], &mut [0.0; 2]).is_err());
    let call = |x: usize, width: usize, dy: usize, dx: usize| {
        silu_mul_backward(&team, &vec![0.0; x], width, &vec![0.0; dy], &mut vec![0.0; dx])
    };
    assert_eq!(call(12, 3, 6, 12), Ok(()));
    assert_eq!(call(0, 0, 0, 0), Ok(()));
    for (x, width, dy, dx) in [(12, 4, 6, 12), (11, 3, 6, 12), (12, 3, 6, 11), (12, 0, 6, 12)] {
        assert!(call(x, width, dy, dx).is_err());
    }
}
