//! The curve against golden values, closed forms and its own slow twin.

use safetensors::SafeTensors;

use super::*;
use crate::simd::{Isa, Kernel, Simd};
use crate::testing::Random;

/// Absolute, in p, for f32: the golden file's README.
const VALUE: f64 = 2e-6;
/// Absolute, in dp/dx, times the largest slope where that is above 1.
const SLOPE: f64 = 1e-5;

/// What the smallest numbers of f32 are rounded by.
const DENORMAL: f64 = 1e-42;

struct Solve<'a>(&'a AlphaSigmoid, &'a [f32]);

impl Kernel for Solve<'_> {
    type Output = [Vec<f32>; 3];
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [Vec<f32>; 3] {
        let mut out = [vec![9.0; self.1.len()], vec![9.0; self.1.len()], vec![9.0; self.1.len()]];
        let [p, log_p, slope_over_p] = &mut out;
        solve(simd, self.0, self.1, p, log_p, slope_over_p);
        out
    }
}

#[test]
fn golden_values_are_met() {
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/alpha_sigmoid/alpha_sigmoid.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let f64s = |name: &str| -> Vec<f64> {
        let data = file.tensor(name).unwrap().data().to_vec();
        data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
    };
    let x: Vec<f32> = file
        .tensor("x")
        .unwrap()
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    for (i, alpha) in f64s("alphas").into_iter().enumerate() {
        let [p, q, slope] = ["p", "one_minus_p", "dpdx"].map(|name| f64s(&format!("{name}.{i}")));
        let curve = AlphaSigmoid::new(alpha).unwrap();
        let (bound, steepest) = (1.0 / (alpha - 1.0), slope.iter().copied().fold(1.0, f64::max));
        let near = |x: f32| alpha >= 2.0 && (f64::from(x.abs()) - bound).abs() < 1e-6 * bound;
        let check = |who: &str, x: f32, got: [f64; 2], want: [f64; 2]| {
            assert!((got[0] - want[0]).abs() < VALUE, "{who} alpha {alpha} at {x}: p {got:?}, want {want:?}");
            let off = (got[1] - want[1]).abs();
            assert!(
                near(x) || off < SLOPE * steepest,
                "{who} alpha {alpha} at {x}: slope {got:?}, want {want:?}"
            );
        };
        for (k, &x) in x.iter().enumerate() {
            let vote = curve.value_and_slope(x);
            check("exact", x, [f64::from(vote.p), f64::from(vote.slope)], [p[k], slope[k]]);
            // Where the logistic function stands in, the difference grows with x^2.
            let apart = if i == 0 { 1e-3 } else { 1e-6 };
            assert!(
                near(x) || (f64::from(vote.q) - q[k]).abs() <= apart * q[k] + DENORMAL,
                "alpha {alpha} at {x}: {vote:?} {}",
                q[k]
            );
        }
        for &isa in Isa::available() {
            let [got_p, log_p, over] = isa.run(Solve(&curve, &x));
            for (k, &x) in x.iter().enumerate() {
                let got = f64::from(got_p[k]);
                // 0 times infinity cannot arise: where p is 0 the other is 0 too.
                check(&format!("{isa:?}"), x, [got, f64::from(over[k]) * got], [p[k], slope[k]]);
                let log = if got_p[k] > 0.5 { (-q[k]).ln_1p() } else { p[k].ln() };
                let close = (f64::from(log_p[k]) - log).abs()
                    <= 4e-6 * (log.abs() + 1.0).min(log.abs() * 25.0) + DENORMAL;
                let tiny = p[k] < 2e-45 && log_p[k] == f32::NEG_INFINITY;
                assert!(
                    close || tiny || near(x) || i == 0 || log_p[k] == log as f32,
                    "{isa:?} alpha {alpha} at {x}: {} {log}",
                    log_p[k]
                );
            }
        }
    }
}

#[test]
fn the_fast_curve_follows_the_exact_one() {
    let mut random = Random(9);
    for alpha in [1.0, 1.00002, 1.001, 1.03, 1.3, 1.5, 1.9, 2.0, 2.01, 2.7, 3.0, 5.5, 8.0, 11.0, 20.0, 32.0] {
        let curve = AlphaSigmoid::new(alpha).unwrap();
        let bound = if curve.a > 0.0 { (1.0 / curve.a).min(60.0) } else { 60.0 };
        let mut x: Vec<f32> = random.row(2000).iter().map(|x| x * 1.02 * bound as f32).collect();
        // Crowded at 0 and at the bounds.
        x.extend(random.row(1000).iter().map(|x| x.powi(9) * bound as f32));
        x.extend(random.row(1000).iter().map(|x| (1.0 - x.powi(6)) * x.signum() * bound as f32));
        let steepest = (alpha - 3.0).exp2().max(1.0);
        for &isa in Isa::available() {
            let [p, log_p, over] = isa.run(Solve(&curve, &x));
            for (k, &x) in x.iter().enumerate() {
                let want = curve.value_and_slope(x);
                let near = alpha >= 2.0 && (f64::from(x.abs()) - bound).abs() < 1e-6 * bound;
                let what =
                    || format!("{isa:?} alpha {alpha} at {x:e}: {} {} {} {want:?}", p[k], log_p[k], over[k]);
                assert!((p[k] - want.p).abs() < VALUE as f32, "{}", what());
                let slope = f64::from(over[k] * p[k]);
                assert!(near || (slope - f64::from(want.slope)).abs() < SLOPE * steepest, "{}", what());
                let log = if want.p > 0.5 { (-f64::from(want.q)).ln_1p() } else { f64::from(want.p).ln() };
                // A log of a denormal is as coarse as the denormal.
                let close = (f64::from(log_p[k]) - log).abs() <= 1e-5 * (1.0 + log.abs());
                assert!(near || close || want.p < 1e-36, "{}", what());
            }
        }
    }
}

#[test]
fn closed_forms_hold() {
    for i in 0..2001 {
        let x = (i - 1000) as f32 * 0.0025;
        let wide = f64::from(x);
        let value = |alpha| f64::from(AlphaSigmoid::new(alpha).unwrap().value(x));
        let root = |x: f64| {
            if x.abs() < 2.0 { 0.5 + x / 4.0 * (2.0 - x * x / 4.0).sqrt() } else { f64::from(x > 0.0) }
        };
        for (alpha, want) in [
            (1.5, root(wide)),
            (2.0, (0.5 + 0.5 * wide).clamp(0.0, 1.0)),
            (3.0, (0.5 + wide).clamp(0.0, 1.0)),
            (1.0, 1.0 / (1.0 + (-wide).exp())),
        ] {
            assert!((value(alpha) - want).abs() < 1e-7, "{alpha} {x}");
        }
    }
}

#[test]
fn saturated_votes_are_exact_and_have_no_slope() {
    for alpha in [1.0, 1.01, 1.5, 2.0, 4.0, 8.0] {
        let curve = AlphaSigmoid::new(alpha).unwrap();
        let far = if alpha > 1.0 { (1.0001 / (alpha - 1.0)) as f32 } else { 1e4 };
        for &isa in Isa::available() {
            let [p, log_p, over] = isa.run(Solve(
                &curve,
                &[-far, far, f32::NEG_INFINITY, f32::INFINITY, -1e30, 1e30, f32::NAN, 0.0],
            ));
            assert_eq!(p[..6], [0.0, 1.0, 0.0, 1.0, 0.0, 1.0], "{isa:?} {alpha}");
            let dead = f32::NEG_INFINITY;
            assert_eq!(log_p[..6], [dead, 0.0, dead, 0.0, dead, 0.0], "{isa:?} {alpha}");
            assert_eq!(over[..6], [0.0; 6], "{isa:?} {alpha}");
            assert!(p[6].is_nan() && log_p[6].is_nan() && over[6].is_nan(), "{isa:?} {alpha}");
            assert!((p[7] - 0.5).abs() < 1e-7);
        }
        let vote = curve.value_and_slope(far);
        assert!((vote.p, vote.q, vote.slope) == (1.0, 0.0, 0.0));
        assert!(curve.value(f32::NAN).is_nan());
        assert!(curve.value_and_slope(f32::NEG_INFINITY) == Vote { p: 0.0, q: 1.0, slope: 0.0 });
    }
}

#[test]
fn a_vote_does_not_depend_on_its_lane() {
    let curve = AlphaSigmoid::new(4.0).unwrap();
    let x: Vec<f32> = Random(4).row(37).iter().map(|x| x * 0.4).collect();
    for &isa in Isa::available() {
        let all = isa.run(Solve(&curve, &x));
        for k in 0..x.len() {
            let alone = isa.run(Solve(&curve, &x[k..k + 1]));
            assert!(all.iter().zip(&alone).all(|(all, alone)| all[k] == alone[0]), "{isa:?} {k}");
        }
    }
}

#[test]
fn an_alpha_out_of_range_is_refused() {
    for alpha in [0.9, 33.0, f64::NAN, f64::INFINITY, -1.0] {
        assert!(matches!(AlphaSigmoid::new(alpha), Err(KernelError::Invalid { .. })), "{alpha}");
    }
    assert_eq!(AlphaSigmoid::new(4.5).unwrap().alpha(), 4.5);
}
