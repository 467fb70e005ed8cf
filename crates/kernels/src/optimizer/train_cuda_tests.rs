//! AdamW on the device against the processor's.

use std::slice::from_ref;

use super::{AdamW, Judged, Parameters, TrainOptimizer, Verdict, adamw};
use crate::cuda::rounding::{assert_close, last_bits, numbers_of, plain, poisoned, poisoned_f32};
use crate::cuda::testing::device;
use crate::cuda::{DeviceBuffer, DeviceSlice, Stretches};
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
            let all = Stretches::new(&device, from_ref(&(0..count))).unwrap();
            let verdict = copy(&[0.25, 1.0]);
            for step in 1..=3 {
                let g = random.row(count);
                let rule = AdamW {
                    learning_rate: 1e-2,
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay: 0.1,
                    step,
                    gradient_scale: 2.0,
                };
                let clipped = AdamW { gradient_scale: 0.5, ..rule };
                adamw(&team, &clipped, &mut x, &g, &mut m, &mut v).unwrap();
                let device_g = copy(&g);
                let range = Parameters {
                    values: (&device_x).into(),
                    gradients: (&device_g).into(),
                    first: (&device_m).into(),
                    second: (&device_v).into(),
                    working: Some((&working).into()),
                };
                let judged = Judged { verdict: (&verdict).into(), is_clipped: true };
                optimizer.adamw(&rule, range, &all, judged).unwrap();
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
fn cuda_a_step_moves_some_stretches_as_it_moves_all_and_none_against_its_verdict() {
    let Some(device) = device("cuda_a_step_moves_some_stretches") else { return };
    let mut random = Random(93);
    let optimizer = TrainOptimizer::new(&device, &plain(DType::Bf16, 8)).unwrap();
    let count = 20 * 1024 + 7;
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
    let moved = |ranges: &[std::ops::Range<usize>], verdict: [f32; 2]| {
        let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
        let (values, gradients, verdict) = (copy(&x), copy(&g), copy(&verdict));
        let moments = [copy(&vec![0.0; count]), copy(&vec![0.0; count])];
        let working = DeviceBuffer::copy_of(&device, "a test", &vec![0_u8; 2 * count]).unwrap();
        let range = Parameters {
            values: (&values).into(),
            gradients: (&gradients).into(),
            first: (&moments[0]).into(),
            second: (&moments[1]).into(),
            working: Some((&working).into()),
        };
        let stretches = Stretches::new(&device, ranges).unwrap();
        // The scale is not asked for.
        let judged = Judged { verdict: (&verdict).into(), is_clipped: false };
        optimizer.adamw(&rule, range, &stretches, judged).unwrap();
        let [first, second] = moments.map(|moment| moment.read().unwrap());
        let working = numbers_of(&working.read().unwrap(), DType::Bf16);
        [values.read().unwrap(), first, second, working]
    };
    let all = 0..count;
    let chosen = [64..64, 128..132, 4096..9000, 9004..9007, 12_288..20_480, 20_484..count];
    let whole = moved(from_ref(&all), [0.5, 1.0]);
    let some = moved(&chosen, [0.5, 1.0]);
    let before = [x.clone(), vec![0.0; count], vec![0.0; count], vec![0.0; count]];
    for ((whole, some), before) in whole.iter().zip(&some).zip(&before) {
        for at in 0..count {
            let is_chosen = chosen.iter().any(|range| range.contains(&at));
            assert_eq!(some[at], if is_chosen { whole[at] } else { before[at] }, "number {at}");
        }
    }
    assert_eq!(moved(from_ref(&all), [0.5, 0.0]), before, "the verdict says that nothing moves");
}

#[test]
fn cuda_verdicts_are_the_hosts() {
    let Some(device) = device("cuda_verdicts_are_the_hosts") else { return };
    let optimizer = TrainOptimizer::new(&device, &plain(DType::F32, 8)).unwrap();
    let verdict = poisoned_f32(&device, TrainOptimizer::VERDICT);
    for (squares, clipped) in [
        (vec![], vec![]),
        (vec![0.0], vec![true]),
        (vec![7.3], vec![true]),
        (vec![7.3, 1e9, 0.1], vec![true, false, true]),
        (vec![1e300, 1e300], vec![false, false]),
        (vec![1.0, f64::INFINITY], vec![true, false]),
        (vec![f64::NAN], vec![true]),
    ] {
        for clip in [0.0, 1.0, 0.3, 1e4] {
            for others in [0.0, 2.0] {
                // In two parts, with a sum behind each that nobody asks for.
                let parts: Vec<f64> = [0.25, 0.75]
                    .into_iter()
                    .flat_map(|share| squares.iter().map(move |x| share * x).chain([f64::NAN]))
                    .collect();
                let found = DeviceBuffer::copy_of(&device, "a test", &[others]).unwrap();
                let parts = DeviceBuffer::copy_of(&device, "a test", &parts).unwrap();
                let (found, parts) = ((&found).into(), (&parts).into());
                optimizer.judge(found, parts, &clipped, clip, (&verdict).into()).unwrap();
                let got = verdict.read().unwrap();
                let sums: Vec<f64> = squares.iter().map(|x| 0.25 * x + 0.75 * x).collect();
                let want = Verdict::of(&sums, &clipped, clip);
                let moves = want.moves && others == 0.0;
                assert_eq!(got[1], f32::from(u8::from(moves)), "{squares:?} {others}");
                assert!(
                    !moves || got[0].to_bits() == want.scale.to_bits(),
                    "{squares:?} {clip}: {got:?} {want:?}"
                );
            }
        }
    }
    let numbers = DeviceBuffer::copy_of(&device, "a test", &[0.0, 1.0]).unwrap();
    let all: DeviceSlice<'_, f64> = (&numbers).into();
    assert!(optimizer.judge(all, all, &[true; 2], 1.0, (&verdict).into()).is_err());
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
