//! The sums against f64.

use std::slice::from_ref;

use super::DeviceSums;
use crate::DType;
use crate::cuda::rounding::{assert_close, plain, poisoned_f32, rounded, upload};
use crate::cuda::testing::device;
use crate::cuda::{DeviceBuffer, Stretches};
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
            let all = Stretches::new(&device, from_ref(&(0..x.len()))).unwrap();
            sums.squares((&x).into(), &all, &scratch, (&total).into()).unwrap();
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
fn cuda_squares_of_some_stretches_are_summed_alone() {
    let Some(device) = device("cuda_squares_of_some_stretches_are_summed_alone") else { return };
    let sums = DeviceSums::new(&device, &plain(DType::F32, 8)).unwrap();
    let scratch = DeviceBuffer::zeroed(&device, "a test", DeviceSums::SQUARES_SCRATCH).unwrap();
    let total = DeviceBuffer::zeroed(&device, "a test", 1).unwrap();
    // More stretches than blocks, the last of them ragged.
    let x = Random(43).row(6_000_000 + 3);
    let device_x = DeviceBuffer::copy_of(&device, "a test", &x).unwrap();
    let all = 0..x.len();
    let some = [4..4, 8..9, 400..5_000_001, 5_500_000..x.len()];
    for ranges in [from_ref(&all), &some, &[]] {
        let stretches = Stretches::new(&device, ranges).unwrap();
        sums.squares((&device_x).into(), &stretches, &scratch, (&total).into()).unwrap();
        // In parts, because one long sum would round more than the tolerance.
        let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        let want: f64 = ranges.iter().flat_map(|range| x[range.clone()].chunks(1000)).map(sum).sum();
        let got = total.read().unwrap()[0];
        assert!((got - want).abs() <= 1e-12 * want, "{ranges:?}: {got} instead of {want}");
    }
    let odd = Stretches::new(&device, from_ref(&(2..9))).unwrap();
    assert!(sums.squares((&device_x).into(), &odd, &scratch, (&total).into()).is_err());
    let long = Stretches::new(&device, from_ref(&(0..x.len() + 1))).unwrap();
    assert!(sums.squares((&device_x).into(), &long, &scratch, (&total).into()).is_err());
}

#[test]
fn cuda_numbers_that_are_not_finite_are_found_where_one_looks() {
    let Some(device) = device("cuda_numbers_that_are_not_finite_are_found_where_one_looks") else { return };
    let sums = DeviceSums::new(&device, &plain(DType::F32, 8)).unwrap();
    let found = |x: &[f32], count: usize| {
        let x = DeviceBuffer::copy_of(&device, "a test", x).unwrap();
        let found = DeviceBuffer::zeroed(&device, "a test", 1).unwrap();
        sums.not_finite((&x).into(), count, 3, (&found).into()).unwrap();
        found.read().unwrap()[0] != 0.0
    };
    let healthy = vec![f32::MAX; 3 * 700];
    assert!(!found(&healthy, 700) && !found(&healthy, 0));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (at, is_seen) in [(0, true), (3 * 699, true), (3 * 300, true), (1, false), (3 * 300 + 2, false)] {
            let mut x = healthy.clone();
            x[at] = bad;
            assert_eq!(found(&x, 700), is_seen, "{bad} at {at}");
        }
        let mut x = healthy.clone();
        x[3 * 600] = bad;
        assert!(!found(&x, 600), "behind what is looked at");
    }
}
