//! The sums against f64.

use super::DeviceSums;
use crate::DType;
use crate::cuda::rounding::{assert_close, plain, poisoned_f32, rounded, upload};
use crate::cuda::testing::device;
use crate::cuda::{DeviceBuffer, Marks};
use crate::testing::Random;

#[test]
fn cuda_columns_are_summed_and_added() {
    let Some(device) = device("cuda_columns_are_summed_and_added") else { return };
    let mut random = Random(41);
    for dtype in [DType::F32, DType::Bf16] {
        let sums = DeviceSums::new(&device, &plain(dtype, 8)).unwrap();
        for (rows, columns) in [(1, 1), (300, 7), (513, 264), (1025, 40), (256, 768)] {
            let x = rounded(&random.row(rows * columns), dtype);
            let before = random.row(columns);
            let to = DeviceBuffer::copy_of(&device, "a test", &before).unwrap();
            let scratch = poisoned_f32(&device, DeviceSums::scratch(rows, columns));
            let device_x = upload(&device, &x, dtype);
            sums.add_columns(rows, (&device_x).into(), &scratch, (&to).into()).unwrap();
            let want: Vec<f64> = (0..columns)
                .map(|i| {
                    f64::from(before[i]) + (0..rows).map(|row| f64::from(x[row * columns + i])).sum::<f64>()
                })
                .collect();
            assert_close(&format!("{dtype} {rows} {columns}"), &to.read().unwrap(), &want, 1e-4);
        }
    }
}

#[test]
fn cuda_squares_are_summed_in_f64_and_show_what_is_not_finite() {
    let Some(device) = device("cuda_squares_are_summed_in_f64_and_show_what_is_not_finite") else { return };
    let sums = DeviceSums::new(&device, &plain(DType::F32, 8)).unwrap();
    let scratch = DeviceBuffer::zeroed(&device, "a test", DeviceSums::SQUARES_SCRATCH).unwrap();
    let total = DeviceBuffer::zeroed(&device, "a test", 1).unwrap();
    let mut random = Random(42);
    for count in [0, 1, 255, 100_003] {
        let mut x = random.row(count);
        let sum = |x: &[f32]| -> f64 {
            let x = DeviceBuffer::copy_of(&device, "a test", x).unwrap();
            sums.squares((&x).into(), None, &scratch, (&total).into()).unwrap();
            total.read().unwrap()[0]
        };
        let want: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let got = sum(&x);
        assert!((got - want).abs() <= 1e-12 * want, "{count}: {got} instead of {want}");
        assert_eq!(got.to_bits(), sum(&x).to_bits(), "the same sum twice");
        if count > 0 {
            x[count / 2] = f32::NAN;
            assert!(sum(&x).is_nan());
            x[count / 2] = f32::INFINITY;
            assert!(sum(&x).is_infinite());
        }
    }
}

#[test]
fn cuda_squares_of_marked_stretches_are_summed_alone() {
    let Some(device) = device("cuda_squares_of_marked_stretches_are_summed_alone") else { return };
    let sums = DeviceSums::new(&device, &plain(DType::F32, 8)).unwrap();
    let scratch = DeviceBuffer::zeroed(&device, "a test", DeviceSums::SQUARES_SCRATCH).unwrap();
    let total = DeviceBuffer::zeroed(&device, "a test", 1).unwrap();
    let x = Random(43).row(500_000 + 3);
    let bytes: Vec<u8> =
        (0..x.len().div_ceil(Marks::STRETCH)).map(|at| [1, 2, 3, 0, 2][at * 3 % 5]).collect();
    let marks = DeviceBuffer::copy_of(&device, "a test", &bytes).unwrap();
    let device_x = DeviceBuffer::copy_of(&device, "a test", &x).unwrap();
    for bits in [1, 2, 4] {
        let chosen = Marks { bytes: (&marks).into(), bits };
        sums.squares((&device_x).into(), Some(chosen), &scratch, (&total).into()).unwrap();
        let marked = x.iter().enumerate().filter(|(at, _)| bytes[at / Marks::STRETCH] & bits != 0);
        let want: f64 = marked.map(|(_, &x)| f64::from(x) * f64::from(x)).sum();
        let got = total.read().unwrap()[0];
        assert!((got - want).abs() <= 1e-12 * want, "{bits}: {got} instead of {want}");
    }
}
