//! Every instruction set against plain f32 and f64.

use super::exp::{exp, sigmoid};
use super::*;

struct Exp<'a>(&'a [f32]);

impl Kernel for Exp<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut out = vec![0.0; self.0.len()];
        for (from, to) in self.0.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            simd.write_partial(to, exp(simd, simd.read_partial(from, 0.0)));
        }
        out
    }
}

#[test]
fn exp_is_within_one_part_in_ten_million() {
    let xs: Vec<f32> = (0..200_000).map(|i| -87.3 + i as f32 * (88.7 + 87.3) / 200_000.0).collect();
    for &isa in Isa::available() {
        let worst = isa
            .run(Exp(&xs))
            .iter()
            .zip(&xs)
            .map(|(&y, &x)| (f64::from(y) / f64::from(x).exp() - 1.0).abs())
            .fold(0.0, f64::max);
        assert!(worst < 1.3e-7, "{isa:?}: {worst:e}");
    }
}

#[test]
fn exp_keeps_the_limits() {
    let xs = [
        f32::NEG_INFINITY,
        -1e30,
        -200.0,
        0.0,
        -0.0,
        200.0,
        f32::INFINITY,
        f32::NAN,
        -95.0,
        f32::MIN_POSITIVE,
    ];
    for &isa in Isa::available() {
        let ys = isa.run(Exp(&xs));
        assert_eq!(ys[..7], [0.0, 0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY], "{isa:?}");
        assert!(ys[7].is_nan(), "{isa:?}");
        assert!((ys[8] / (-95.0f32).exp() - 1.0).abs() < 1e-3, "{isa:?}: gradual underflow, got {:e}", ys[8]);
        assert_eq!(ys[9], 1.0, "{isa:?}");
    }
}

struct Log<'a>(&'a [f32], f32);

impl Kernel for Log<'_> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut out = vec![0.0; self.0.len()];
        for (from, to) in self.0.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            simd.write_partial(to, log::log(simd, simd.read_partial(from, 1.0), simd.splat(self.1)));
        }
        out
    }
}

#[test]
fn log_is_within_two_parts_in_ten_million() {
    let xs: Vec<f32> =
        (0..200_000).map(|i| (-80.0 + i as f32 * 8e-4).exp()).chain([1.0, 0.999_999_94]).collect();
    for &isa in Isa::available() {
        for (&x, y) in xs.iter().zip(isa.run(Log(&xs, 0.0))) {
            let want = f64::from(x).ln();
            assert!((f64::from(y) - want).abs() <= 2e-7 * want.abs(), "{isa:?} {x}: {y}");
        }
        assert_eq!(isa.run(Log(&[1.0], 1e-12)), [1e-12], "{isa:?}: what rounding took");
    }
}

struct Everything;

impl Kernel for Everything {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let a: Vec<f32> = (0..S::LANES).map(|i| i as f32 - 3.5).collect();
        let b: Vec<f32> = (0..S::LANES).map(|i| 2.0 - 0.25 * i as f32).collect();
        let (va, vb) = (simd.read(&a), simd.read(&b));
        let check = |got: S::V, want: &dyn Fn(f32, f32) -> f32| {
            let mut lanes = vec![0.0; S::LANES];
            simd.write(&mut lanes, got);
            let wanted: Vec<f32> = a.iter().zip(&b).map(|(&a, &b)| want(a, b)).collect();
            assert_eq!(lanes, wanted);
        };
        check(simd.splat(3.0), &|_, _| 3.0);
        check(simd.add(va, vb), &|a, b| a + b);
        check(simd.sub(va, vb), &|a, b| a - b);
        check(simd.mul(va, vb), &|a, b| a * b);
        check(simd.div(va, simd.splat(3.0)), &|a, _| a / 3.0);
        check(simd.mul_add(va, vb, va), &|a, b| a * b + a);
        check(simd.sqrt(simd.mul(va, va)), &|a, _| a.abs());
        check(simd.min(va, vb), &f32::min);
        check(simd.max(va, vb), &f32::max);
        check(simd.round(va), &|a, _| a.round_ties_even());
        check(simd.scale(va, simd.round(vb)), &|a, b| a * b.round_ties_even().exp2());
        check(simd.select_less(va, vb, va, vb), &|a, b| if a < b { a } else { b });
        assert_eq!(simd.sum(va), a.iter().sum::<f32>());
        assert_eq!(simd.largest(va), S::LANES as f32 - 4.5);
        check(sigmoid(simd, simd.splat(0.0)), &|_, _| 0.5);
        let f16s: Vec<f16> = a.iter().map(|&a| f16::from_f32(a)).collect();
        let bf16s: Vec<bf16> = a.iter().map(|&a| bf16::from_f32(a)).collect();
        // SAFETY: both hold LANES elements.
        check(unsafe { simd.load_f16(f16s.as_ptr()) }, &|a, _| a);
        // SAFETY: as above.
        check(unsafe { simd.load_bf16(bf16s.as_ptr()) }, &|a, _| a);
        let codes: Vec<u8> = (0..S::LANES).map(|i| 255 - 17 * i as u8).collect();
        let code = |a: f32| 255.0 - 17.0 * (a + 3.5);
        // SAFETY: there are LANES bytes.
        check(unsafe { simd.load_u8(codes.as_ptr()) }, &|a, _| code(a));
        // SAFETY: as above.
        check(unsafe { simd.load_nibbles(codes.as_ptr(), 0) }, &|a, _| code(a) % 16.0);
        // SAFETY: as above.
        check(unsafe { simd.load_nibbles(codes.as_ptr(), 4) }, &|a, _| (code(a) / 16.0).floor());
        check(simd.read_partial(&a[..3], 9.0), &|a, _| if a < -1.0 { a } else { 9.0 });
        let mut short = [7.0; 2];
        simd.write_partial(&mut short, va);
        assert_eq!(short, [-3.5, -2.5]);
    }
}

#[test]
fn every_instruction_set_does_the_same_arithmetic() {
    Isa::available().iter().for_each(|isa| isa.run(Everything));
}

struct Bounds<'a>(&'a [u32; 32]);

impl Kernel for Bounds<'_> {
    type Output = (u32, u32);
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (u32, u32) {
        simd.bounds(self.0)
    }
}

#[test]
fn bounds_are_found_wherever_they_stand() {
    for &isa in Isa::available() {
        for low in 0..32 {
            let mut all = [u32::MAX / 2; 32];
            // Unsigned: the largest would be the smallest as an i32.
            (all[low], all[31 - low]) = (3, u32::MAX);
            assert_eq!(isa.run(Bounds(&all)), (3, u32::MAX), "{isa:?}");
        }
    }
}
