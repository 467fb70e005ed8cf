//! The gradients of the norms against their f64 twins, and those against differences.

use proptest::prelude::*;

use super::*;
use crate::testing::Random;

/// f32 arithmetic on rows of up to 300 numbers of size 1.
const TOLERANCE: f64 = 2e-5;
const EPSILON: f32 = 1e-3;

/// The norm of a row in f64.
fn forward(centred: bool, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let width = x.len() as f64;
    let mean = if centred { x.iter().sum::<f64>() / width } else { 0.0 };
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width;
    let scale = (variance + f64::from(EPSILON)).sqrt();
    x.iter().zip(weight).zip(bias).map(|((x, w), b)| (x - mean) / scale * w + b).collect()
}

/// Gradients of a row: x, weight, bias.
fn reference(centred: bool, x: &[f64], weight: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
    let width = x.len() as f64;
    let zeros = vec![0.0; x.len()];
    let normed = forward(centred, x, &vec![1.0; x.len()], &zeros);
    let mean = if centred { x.iter().sum::<f64>() / width } else { 0.0 };
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width;
    let scale = 1.0 / (variance + f64::from(EPSILON)).sqrt();
    let g: Vec<f64> = dy.iter().zip(weight).map(|(dy, w)| dy * w).collect();
    let sum = if centred { g.iter().sum::<f64>() / width } else { 0.0 };
    let product = g.iter().zip(&normed).map(|(g, n)| g * n).sum::<f64>() / width;
    let dx = g.iter().zip(&normed).map(|(g, n)| scale * (g - sum - n * product)).collect();
    [dx, dy.iter().zip(&normed).map(|(dy, n)| dy * n).collect(), dy.to_vec()]
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn close(got: &[f32], want: &[f64], tolerance: f64) -> bool {
    got.len() == want.len()
        && got.iter().zip(want).all(|(&g, &w)| (f64::from(g) - w).abs() <= tolerance * (1.0 + w.abs()))
}

#[test]
fn the_reference_agrees_with_differences() {
    let mut random = Random(3);
    for centred in [true, false] {
        for width in [1, 2, 7] {
            let [x, weight, bias, dy] = [0; 4].map(|_| wide(&random.row(width)));
            let value = |x: &[f64], weight: &[f64], bias: &[f64]| {
                forward(centred, x, weight, bias).iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>()
            };
            let want = reference(centred, &x, &weight, &dy);
            for i in 0..width {
                let moved = |x: &[f64], by: f64| {
                    let mut x = x.to_vec();
                    x[i] += by;
                    x
                };
                let h = 1e-5;
                let differences = [
                    value(&moved(&x, h), &weight, &bias) - value(&moved(&x, -h), &weight, &bias),
                    value(&x, &moved(&weight, h), &bias) - value(&x, &moved(&weight, -h), &bias),
                    value(&x, &weight, &moved(&bias, h)) - value(&x, &weight, &moved(&bias, -h)),
                ];
                for (difference, want) in differences.iter().zip(&want) {
                    assert!((difference / (2.0 * h) - want[i]).abs() < 1e-6, "{centred} {width} {i}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_gradients_agree_with_the_reference_on_any_number_of_threads(
        rows in 0usize..90, width in 1usize..300, seed: u64, shift in -1f32..1.0,
    ) {
        let mut random = Random(seed);
        let x: Vec<f32> = random.row(rows * width).iter().map(|x| x + shift).collect();
        let (weight, dy) = (random.row(width), random.row(rows * width));
        let before = random.row(rows * width);
        for centred in [true, false] {
            let results = [1, 2, 3].map(|threads| {
                let team = Team::new(threads).unwrap();
                let (mut dx, mut dweight, mut dbias) = (before.clone(), vec![0.5; width], vec![0.5; width]);
                if centred {
                    layer_norm_backward(&team, &x, &weight, EPSILON, &dy, &mut dx, &mut dweight, &mut dbias)
                } else {
                    rms_norm_backward(&team, &x, &weight, EPSILON, &dy, &mut dx, &mut dweight)
                }.unwrap();
                [dx, dweight, dbias]
            });
            prop_assert!(results[0] == results[1] && results[0] == results[2]);
            let [dx, dweight, dbias] = &results[0];
            let (mut want_weight, mut want_bias) = (vec![0.5; width], vec![0.5; width]);
            for row in 0..rows {
                let range = row * width..(row + 1) * width;
                let want = reference(centred, &wide(&x[range.clone()]), &wide(&weight), &wide(&dy[range.clone()]));
                let dx_want: Vec<f64> =
                    want[0].iter().zip(&before[range.clone()]).map(|(d, &b)| d + f64::from(b)).collect();
                // A row of one or two numbers has a scale of up to 1/sqrt(epsilon).
                prop_assert!(close(&dx[range], &dx_want, TOLERANCE * 30.0 / (width as f64).sqrt().min(6.0)));
                want_weight.iter_mut().zip(&want[1]).for_each(|(sum, x)| *sum += x);
                want_bias.iter_mut().zip(&want[2]).for_each(|(sum, x)| *sum += x);
            }
            prop_assert!(close(dweight, &want_weight, 10.0 * TOLERANCE));
            prop_assert!(!centred || close(dbias, &want_bias, TOLERANCE));
        }
    }

    #[test]
    fn a_head_is_a_row_and_its_neighbours_stay(
        rows in 0usize..40, heads in 0usize..5, d in 1usize..130, offset in 0usize..9, rest in 0usize..9, seed: u64,
    ) {
        let team = Team::new(2).unwrap();
        let mut random = Random(seed);
        let stride = offset + heads * d + rest;
        let (x, dy, weight) = (random.row(rows * stride), random.row(rows * stride), random.row(d));
        let (mut after, mut dweight) = (dy.clone(), vec![0.0; d]);
        rms_norm_heads_backward(&team, &x, stride, offset, heads, &weight, EPSILON, &mut after, &mut dweight).unwrap();
        let mut want_weight = vec![0.0; d];
        for row in 0..if stride > 0 { rows } else { 0 } {
            let (at, end) = (row * stride + offset, row * stride + offset + heads * d);
            prop_assert_eq!(&after[row * stride..at], &dy[row * stride..at]);
            prop_assert_eq!(&after[end..(row + 1) * stride], &dy[end..(row + 1) * stride]);
            let mut want = vec![0.0; heads * d];
            rms_norm_backward(&team, &x[at..end], &weight, EPSILON, &dy[at..end], &mut want, &mut want_weight).unwrap();
            prop_assert_eq!(&after[at..end], &want[..]);
        }
        prop_assert!(close(&dweight, &wide(&want_weight), 10.0 * TOLERANCE));
    }
}

#[test]
fn wrong_shapes_are_typed_errors() {
    let team = Team::new(1).unwrap();
    let (x, w) = ([0.0; 12], [1.0; 4]);
    let layer = |x: &[f32], dy: usize, dx: usize, dw: usize, db: usize| {
        let [mut dx, mut dw, mut db] = [dx, dw, db].map(|len| vec![0.0; len]);
        layer_norm_backward(&team, x, &w, 1e-5, &vec![0.0; dy], &mut dx, &mut dw, &mut db)
    };
    assert_eq!(layer(&x, 12, 12, 4, 4), Ok(()));
    for (x, dy, dx, dw, db) in
        [(11, 12, 12, 4, 4), (12, 8, 12, 4, 4), (12, 12, 8, 4, 4), (12, 12, 12, 3, 4), (12, 12, 12, 4, 5)]
    {
        assert!(layer(&vec![0.0; x], dy, dx, dw, db).is_err());
    }
    let mut d = [0.0; 12];
    assert!(rms_norm_backward(&team, &x, &[], 1e-5, &x, &mut d, &mut []).is_err());
    assert!(rms_norm_heads_backward(&team, &x, 6, 2, 1, &w, 1e-5, &mut d, &mut [0.0; 4]).is_ok());
    assert!(rms_norm_heads_backward(&team, &x, 6, 3, 1, &w, 1e-5, &mut d, &mut [0.0; 4]).is_err());
    assert!(rms_norm_heads_backward(&team, &x, 6, 2, 1, &w, 1e-5, &mut d[1..], &mut [0.0; 4]).is_err());
    assert!(rms_norm_heads_backward(&team, &x, 6, 2, 1, &w, 1e-5, &mut d, &mut [0.0; 3]).is_err());
}
