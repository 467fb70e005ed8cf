use super::{KeepTable, KeptSums, TrainCounts};
use crate::DType;
use crate::cuda::testing::device;
use crate::cuda::{DeviceBuffer, DeviceSlice, Specialisation};

#[test]
fn rounding_is_the_caches_and_leaves_other_columns_alone() {
    let Some(device) = device("rounding on the device") else { return };
    let counts =
        TrainCounts::new(&device, &Specialisation { cache: DType::Bf16, ..Specialisation::NEUTRAL }).unwrap();
    let x: Vec<f32> = (0..7 * 5).map(|index| (index as f32 * 0.37).sin() * 3.0).collect();
    let rounded = DeviceBuffer::copy_of(&device, "x", &x).unwrap();
    counts.round(7, [5, 2, 3], DeviceSlice::from(&rounded).bytes()).unwrap();
    for (index, (got, x)) in rounded.read().unwrap().into_iter().zip(x).enumerate() {
        let expected = if index % 5 < 2 { x } else { half::bf16::from_f32(x).to_f32() };
        assert_eq!(got.to_bits(), expected.to_bits(), "{index}");
    }
}

#[test]
fn what_is_kept_is_counted_of_the_later_queries() {
    let Some(device) = device("what is kept on the device") else { return };
    let counts = TrainCounts::new(&device, &Specialisation::NEUTRAL).unwrap();
    let table = KeepTable::new(&device, 4).unwrap();
    let sums = KeptSums::new(&device, 2).unwrap();
    // Query 2 sees entries 0, 2 of 3; query 3 sees 0, 3 of 4. The other lane keeps all.
    let ends = [u32::MAX, 2, 3, u32::MAX, u32::MAX, u32::MAX, u32::MAX, 9];
    let ends = DeviceBuffer::copy_of(&device, "lifetimes", &ends).unwrap();
    counts.keep(2, &ends, &table, &sums, 1).unwrap();
    let ratio = KeptSums::ratio(&sums.partials().read().unwrap(), 1, 2, 4);
    let expected = ((2.0 / 3.0 + 2.0 / 4.0) / 2.0 + 1.0) / 2.0;
    assert!((ratio - expected).abs() < 1e-12, "{ratio} {expected}");
}

#[test]
fn noise_is_logistic_and_a_sample_is_evenly_spaced() {
    let Some(device) = device("noise on the device") else { return };
    let counts = TrainCounts::new(&device, &Specialisation::NEUTRAL).unwrap();
    let noise = DeviceBuffer::zeroed(&device, "noise", 40_000).unwrap();
    counts.noise(7, 2.0, 40_000, &noise).unwrap();
    let drawn = noise.read().unwrap();
    let mean = drawn.iter().map(|&x| f64::from(x)).sum::<f64>() / 4e4;
    let variance = drawn.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 4e4 - mean * mean;
    // A logistic distribution of scale s has variance (pi s)^2 / 3.
    let expected = (std::f64::consts::PI * 2.0).powi(2) / 3.0;
    assert!(mean.abs() < 0.1 && (variance / expected - 1.0).abs() < 0.05, "{mean} {variance}");
    let sample = DeviceBuffer::zeroed(&device, "sample", 6).unwrap();
    counts.sample((&noise).into(), 7000, &sample).unwrap();
    let places: Vec<f32> = drawn.iter().step_by(7000).copied().collect();
    assert_eq!(sample.read().unwrap(), places);
}
