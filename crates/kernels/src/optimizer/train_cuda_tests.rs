//! AdamW on the device against the processor's.

use super::{AdamW, Parameters, Stretches, TrainOptimizer, adamw};
use crate::cuda::rounding::{assert_close, last_bits, numbers_of, plain, poisoned};
use crate::cuda::testing::device;
use crate::cuda::{DeviceBuffer, DeviceSlice, Marks};
use crate::testing::Random;
use crate::{DType, Team};

/// Five operations in f32, with and without fused rounding.
const TOLERANCE: f64 = 1e-6;

fn wide(all: &[f32]) -> Vec<f64> {
    all.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn cuda_steps_of_adamw_agree_with_the_processor() {
    let Some(device) = device("cuda_steps_of_adamw_agree_with_the_processor") else { return };
    let team = Team::new(1).unwrap();
    let mut random = Random(91);
    for dtype in [DType::F32, DType::Bf16] {
        let optimizer = TrainOptimizer::new(&device, &plain(dtype, 8)).unwrap();
        for count in [1, 3, 4, 1000, 70_001] {
            let (mut x, mut m, mut v) = (random.row(count), vec![0.0; count], vec![0.0; count]);
            let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
            let (device_x, device_m, device_v) = (copy(&x), copy(&m), copy(&v));
            let working = poisoned(&device, count * dtype.bytes());
            for step in 1..=3 {
                let g = random.row(count);
                let rule = AdamW {
                    learning_rate: 1e-2,
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay: 0.1,
                    step,
                    gradient_scale: 0.5,
                };
                adamw(&team, &rule, &mut x, &g, &mut m, &mut v).unwrap();
                let device_g = copy(&g);
                let range = Parameters {
                    values: (&device_x).into(),
                    gradients: (&device_g).into(),
                    first: (&device_m).into(),
                    second: (&device_v).into(),
                    working: Some((&working).into()),
                };
                optimizer.adamw(&rule, range, None).unwrap();
            }
            let what = format!("{dtype} {count}");
            assert_close(&what, &device_x.read().unwrap(), &wide(&x), TOLERANCE);
            assert_close(&what, &device_m.read().unwrap(), &wide(&m), TOLERANCE);
            assert_close(&what, &device_v.read().unwrap(), &wide(&v), TOLERANCE);
            let tolerance = last_bits(dtype).max(TOLERANCE);
            assert_close(&what, &numbers_of(&working.read().unwrap(), dtype), &wide(&x), tolerance);
            let narrow = poisoned(&device, count * dtype.bytes());
            optimizer.narrow((&device_x).into(), (&narrow).into()).unwrap();
            assert_eq!(narrow.read().unwrap(), working.read().unwrap());
        }
    }
}

#[test]
fn cuda_a_step_moves_marked_stretches_as_it_moves_all_and_leaves_the_others() {
    let Some(device) = device("cuda_a_step_moves_marked_stretches") else { return };
    let mut random = Random(93);
    let optimizer = TrainOptimizer::new(&device, &plain(DType::Bf16, 8)).unwrap();
    let count = 20 * Marks::STRETCH + 7;
    let rule = AdamW {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.1,
        step: 1,
        gradient_scale: 1.0,
    };
    let (x, g) = (random.row(count), random.row(count));
    let bytes: Vec<u8> = (0..count.div_ceil(Marks::STRETCH)).map(|at| [0, 1, 2, 3][at * 7 % 4]).collect();
    let device_marks = DeviceBuffer::copy_of(&device, "a test", &bytes).unwrap();
    let moved = |marks: Option<Marks<'_>>| {
        let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
        let (values, gradients) = (copy(&x), copy(&g));
        let moments = [copy(&vec![0.0; count]), copy(&vec![0.0; count])];
        let working = DeviceBuffer::copy_of(&device, "a test", &vec![0_u8; 2 * count]).unwrap();
        let range = Parameters {
            values: (&values).into(),
            gradients: (&gradients).into(),
            first: (&moments[0]).into(),
            second: (&moments[1]).into(),
            working: Some((&working).into()),
        };
        optimizer.adamw(&rule, range, marks).unwrap();
        let [first, second] = moments.map(|moment| moment.read().unwrap());
        let working = numbers_of(&working.read().unwrap(), DType::Bf16);
        [values.read().unwrap(), first, second, working]
    };
    let whole = moved(None);
    let some = moved(Some(Marks { bytes: (&device_marks).into(), bits: 2 }));
    let before = [x.clone(), vec![0.0; count], vec![0.0; count], vec![0.0; count]];
    for ((whole, some), before) in whole.iter().zip(&some).zip(&before) {
        for at in 0..count {
            let want = if bytes[at / Marks::STRETCH] & 2 == 0 { before[at] } else { whole[at] };
            assert_eq!(some[at], want, "number {at}");
        }
    }
}

#[test]
fn cuda_split_maps_keep_what_rounding_takes() {
    let Some(device) = device("cuda_split_maps_keep_what_rounding_takes") else { return };
    let mut random = Random(92);
    let (rows, width) = (5, 24);
    let optimizer = TrainOptimizer::new(&device, &plain(DType::Bf16, width)).unwrap();
    let (x, scale) = (random.row(rows * width), random.row(width));
    let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
    let (device_x, device_scale) = (copy(&x), copy(&scale));
    let (high, rest) = (poisoned(&device, 2 * x.len()), poisoned(&device, 2 * x.len()));
    let parts = ((&high).into(), Some(DeviceSlice::from(&rest)));
    optimizer.split((&device_x).into(), Some((&device_scale).into()), parts.0, parts.1).unwrap();
    let want: Vec<f64> =
        x.iter().enumerate().map(|(i, x)| f64::from(*x) * f64::from(scale[i % width])).collect();
    let both = |bytes: &DeviceBuffer<u8>| numbers_of(&bytes.read().unwrap(), DType::Bf16);
    let sum: Vec<f32> = both(&high).iter().zip(both(&rest)).map(|(high, rest)| high + rest).collect();
    assert_close("both parts", &sum, &want, 2e-5);
    let to = copy(&vec![1.0; x.len()]);
    optimizer.add_scaled((&device_x).into(), (&device_scale).into(), (&to).into()).unwrap();
    let want: Vec<f64> = want.iter().map(|x| 1.0 + x).collect();
    assert_close("scaled gradient", &to.read().unwrap(), &want, 1e-6);
}

#[test]
fn cuda_stretches_are_set_to_zero_and_nothing_else() {
    let Some(device) = device("cuda_stretches_are_set_to_zero_and_nothing_else") else { return };
    let optimizer = TrainOptimizer::new(&device, &plain(DType::Bf16, 8)).unwrap();
    let ones = vec![1.0; 100_000];
    for ranges in [&[] as &[_], &[3..4, 99_999..100_000, 17..50_017], &[0..70_000, 70_000..100_000]] {
        let numbers = DeviceBuffer::copy_of(&device, "a test", &ones).unwrap();
        optimizer.clear(&numbers, &Stretches::new(&device, ranges).unwrap()).unwrap();
        let expected: Vec<f32> = (0..ones.len())
            .map(|at| if ranges.iter().any(|range| range.contains(&at)) { 0.0 } else { 1.0 })
            .collect();
        assert!(numbers.read().unwrap() == expected, "{ranges:?}");
    }
    let short = DeviceBuffer::copy_of(&device, "a test", &ones[1..]).unwrap();
    let all = Stretches::new(&device, &[0..50_000, 50_000..100_000]).unwrap();
    assert!(optimizer.clear(&short, &all).is_err());
}
