//! Products of training against sums in f64.

use super::{Sum, TrainMatrix, TrainProducts};
use crate::DType;
use crate::cuda::rounding::{assert_close, bytes_of, last_bits, numbers_of, rounded, upload};
use crate::cuda::testing::device;
use crate::cuda::{Device, DeviceBuffer};
use crate::testing::Random;

/// Sums of up to 300 terms of size 1.
const TOLERANCE: f64 = 3e-5;

struct Case {
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    out: DType,
}

impl Case {
    /// `a b` with either operand stored either way, stored, added to what is there, and to something else.
    fn check(&self, device: &Device, products: &TrainProducts, random: &mut Random) {
        let Self { m, n, k, dtype, out } = *self;
        let (a, b) = (rounded(&random.row(m * k), dtype), rounded(&random.row(k * n), dtype));
        let (before, bias) = (rounded(&random.row(m * n), out), rounded(&random.row(n), out));
        let turn = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..columns * rows).map(|i| x[i % rows * columns + i / rows]).collect()
        };
        let want = |i: usize| -> f64 {
            let (row, column) = (i / n, i % n);
            (0..k).map(|j| f64::from(a[row * k + j]) * f64::from(b[j * n + column])).sum()
        };
        let want: Vec<f64> = (0..m * n).map(want).collect();
        let device_bias = upload(device, &bias, out);
        let device_before = upload(device, &before, out);
        for (turned, sum) in (0..4).flat_map(|turned| (0..3).map(move |sum| (turned, sum))) {
            let stored = |x: &[f32], rows, columns, turned: bool| {
                let numbers = if turned { turn(x, rows, columns) } else { x.to_vec() };
                upload(device, &numbers, dtype)
            };
            let matrix = |data, rows, columns, turned: bool| {
                let (stored_rows, stored_columns) = if turned { (columns, rows) } else { (rows, columns) };
                let stored =
                    TrainMatrix::new(data, dtype, stored_rows, stored_columns, stored_columns).unwrap();
                if turned { stored.turned() } else { stored }
            };
            let (a_turned, b_turned) = (turned % 2 == 1, turned / 2 == 1);
            let (device_a, device_b) = (stored(&a, m, k, a_turned), stored(&b, k, n, b_turned));
            let result = upload(device, &before, out);
            let result_matrix = TrainMatrix::new((&result).into(), out, m, n, n).unwrap();
            let summand = TrainMatrix::new((&device_before).into(), out, m, n, n).unwrap();
            let how = [Sum::Store, Sum::Add, Sum::With(summand)][sum];
            let with_bias = sum != 1;
            let a = matrix((&device_a).into(), m, k, a_turned);
            let b = matrix((&device_b).into(), k, n, b_turned);
            let bias_slice = with_bias.then(|| (&device_bias).into());
            products.multiply(a, b, how, bias_slice, result_matrix).unwrap();
            let want: Vec<f64> = want
                .iter()
                .enumerate()
                .map(|(i, x)| {
                    let before = if sum == 0 { 0.0 } else { f64::from(before[i]) };
                    x + before + if with_bias { f64::from(bias[i % n]) } else { 0.0 }
                })
                .collect();
            let got = numbers_of(&result.read().unwrap(), out);
            let tolerance = TOLERANCE.max(if out == DType::F32 { 0.0 } else { last_bits(out) });
            assert_close(
                &format!("{m} {n} {k} {dtype} {out} turned {turned} sum {sum}"),
                &got,
                &want,
                tolerance,
            );
        }
    }
}

#[test]
fn cuda_products_of_training_agree_in_all_transpositions() {
    let Some(device) = device("cuda_products_of_training_agree_in_all_transpositions") else { return };
    let products = TrainProducts::new(&device).unwrap();
    let mut random = Random(31);
    for (m, n, k) in [(64, 64, 64), (96, 40, 264), (33, 17, 5), (1, 130, 8), (257, 3, 300)] {
        for (dtype, out) in [(DType::F32, DType::F32), (DType::Bf16, DType::Bf16), (DType::Bf16, DType::F32)]
        {
            // 16-bit rows of an odd length are at odd addresses, which the library does not take: callers pad.
            if dtype != DType::F32 && [m, n, k].iter().any(|size| size % 8 != 0 && *size != 1) {
                continue;
            }
            Case { m, n, k, dtype, out }.check(&device, &products, &mut random);
        }
    }
}

#[test]
fn cuda_rows_may_lie_apart_and_begin_anywhere_of_a_slice() {
    let Some(device) = device("cuda_rows_may_lie_apart_and_begin_anywhere_of_a_slice") else { return };
    let products = TrainProducts::new(&device).unwrap();
    let mut random = Random(32);
    // The gradient of logits: bf16 rows at f32's distance, fewer columns than the stride.
    let (rows, width) = (24, 16);
    for (columns, stride) in [(50, 64), (150, 192)] {
        let dy = rounded(&random.row(rows * 2 * stride), DType::Bf16);
        let x = rounded(&random.row(rows * width), DType::Bf16);
        let (device_dy, device_x) = (upload(&device, &dy, DType::Bf16), upload(&device, &x, DType::Bf16));
        let before = random.row(columns * width);
        let out = DeviceBuffer::copy_of(&device, "a test", &before).unwrap();
        let dy_matrix =
            TrainMatrix::new((&device_dy).into(), DType::Bf16, rows, columns, 2 * stride).unwrap().turned();
        let x_matrix = TrainMatrix::new((&device_x).into(), DType::Bf16, rows, width, width).unwrap();
        let out_matrix = TrainMatrix::f32((&out).into(), columns, width).unwrap();
        products.multiply(dy_matrix, x_matrix, Sum::Add, None, out_matrix).unwrap();
        let want: Vec<f64> = (0..columns * width)
            .map(|i| {
                let (column, j) = (i / width, i % width);
                let sum: f64 = (0..rows)
                    .map(|row| f64::from(dy[row * 2 * stride + column]) * f64::from(x[row * width + j]))
                    .sum();
                sum + f64::from(before[i])
            })
            .collect();
        assert_close(&format!("dW of a head of {columns}"), &out.read().unwrap(), &want, TOLERANCE);
    }
}

#[test]
fn cuda_products_that_do_not_fit_are_refused() {
    let Some(device) = device("cuda_products_that_do_not_fit_are_refused") else { return };
    let products = TrainProducts::new(&device).unwrap();
    let buffer = DeviceBuffer::copy_of(&device, "a test", &bytes_of(&[0.0; 64], DType::F32)).unwrap();
    let matrix = |rows, columns| TrainMatrix::new((&buffer).into(), DType::F32, rows, columns, columns);
    assert!(matrix(8, 9).is_err());
    assert!(TrainMatrix::new((&buffer).into(), DType::F32, 8, 8, 7).is_err());
    let (a, b) = (matrix(8, 8).unwrap(), matrix(4, 8).unwrap());
    assert!(products.multiply(a, b, Sum::Store, None, a).is_err());
    assert!(products.multiply(b, a, Sum::Store, None, a).is_err());
    assert!(products.multiply(b, a, Sum::Store, None, b.turned()).is_err());
}
