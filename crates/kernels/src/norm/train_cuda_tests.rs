//! The norms of training against the processor's.

use super::{NormSlices, TrainNorm, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
use crate::cuda::rounding::{
    assert_close, last_bits, numbers_of, plain, poisoned, poisoned_f32, rounded, upload,
};
use crate::cuda::testing::device;
use crate::cuda::{Device, DeviceBuffer};
use crate::testing::Random;
use crate::{DType, Team};

/// f32 sums in another order.
const TOLERANCE: f64 = 5e-5;
const EPSILON: f32 = 1e-5;

fn wide(all: &[f32]) -> Vec<f64> {
    all.iter().map(|&x| f64::from(x)).collect()
}

fn check(device: &Device, random: &mut Random, dtype: DType, rows: usize, c: usize, layer: bool) {
    let what = format!("{dtype} {rows} x {c} layer {layer}");
    let team = Team::new(1).unwrap();
    let norm = TrainNorm::new(device, &plain(dtype, c)).unwrap();
    let x: Vec<f32> = random.row(rows * c).iter().map(|x| x * 3.0 + 1.0).collect();
    let (weight, bias) = (random.row(c), random.row(c));
    let dy = rounded(&random.row(rows * c), dtype);
    let before = random.row(rows * c);
    let copy = |values: &[f32]| DeviceBuffer::copy_of(device, "a test", values).unwrap();
    let (device_x, device_weight, device_bias) = (copy(&x), copy(&weight), copy(&bias));
    let parameters =
        NormSlices { weight: (&device_weight).into(), bias: layer.then(|| (&device_bias).into()) };

    let mut want = vec![0.0; rows * c];
    if layer {
        layer_norm(&team, &x, &weight, &bias, EPSILON, &mut want).unwrap();
    } else {
        rms_norm(&team, &x, &weight, EPSILON, &mut want).unwrap();
    }
    let bytes = rows * c * dtype.bytes();
    let (y, stats) = (poisoned(device, bytes), poisoned_f32(device, 2 * rows));
    let rest = (dtype != DType::F32).then(|| poisoned(device, 2 * rows * c));
    norm.forward(rows, parameters, EPSILON, &device_x, &y, rest.as_ref(), &stats).unwrap();
    let mut got = numbers_of(&y.read().unwrap(), dtype);
    assert_close(&what, &got, &wide(&want), last_bits(dtype).max(TOLERANCE));
    if let Some(rest) = rest {
        let rest = numbers_of(&rest.read().unwrap(), DType::Bf16);
        got.iter_mut().zip(rest).for_each(|(high, rest)| *high += rest);
        assert_close(&format!("{what}: both parts"), &got, &wide(&want), TOLERANCE);
    }

    for fresh in [false, true] {
        let mut dx = if fresh { vec![0.0; rows * c] } else { before.clone() };
        let (mut dweight, mut dbias) = (vec![1.0; c], vec![2.0; c]);
        if layer {
            let gradients = (&mut dweight, &mut dbias);
            layer_norm_backward(&team, &x, &weight, EPSILON, &dy, &mut dx, gradients.0, gradients.1).unwrap();
        } else {
            rms_norm_backward(&team, &x, &weight, EPSILON, &dy, &mut dx, &mut dweight).unwrap();
        }
        let device_dx = if fresh { poisoned_f32(device, rows * c) } else { copy(&before) };
        let narrow = poisoned(device, bytes);
        let (to_weight, to_bias) = (copy(&vec![1.0; c]), copy(&vec![2.0; c]));
        let scratch = poisoned_f32(device, norm.scratch());
        let gradients = NormSlices { weight: (&to_weight).into(), bias: layer.then(|| (&to_bias).into()) };
        let device_dy = upload(device, &dy, dtype);
        norm.backward(
            rows,
            parameters,
            &device_x,
            &stats,
            &device_dy,
            fresh,
            &device_dx,
            Some(&narrow),
            &scratch,
            gradients,
        )
        .unwrap();
        let what = format!("{what} fresh {fresh}");
        assert_close(&what, &device_dx.read().unwrap(), &wide(&dx), TOLERANCE);
        let narrow = numbers_of(&narrow.read().unwrap(), dtype);
        assert_close(&what, &narrow, &wide(&dx), last_bits(dtype).max(TOLERANCE));
        assert_close(&what, &to_weight.read().unwrap(), &wide(&dweight), 4.0 * TOLERANCE);
        assert_close(&what, &to_bias.read().unwrap(), &wide(&dbias), 4.0 * TOLERANCE);
    }
}

#[test]
fn cuda_norms_of_training_agree_with_the_processor() {
    let Some(device) = device("cuda_norms_of_training_agree_with_the_processor") else { return };
    let mut random = Random(51);
    for (i, c) in [8, 30, 256, 576, 768, 1000, 2048, 4096].into_iter().enumerate() {
        for (dtype, rows) in [(DType::F32, 3 + i), (DType::Bf16, 600 / (i + 1))] {
            check(&device, &mut random, dtype, rows, c, i % 2 == 0);
            check(&device, &mut random, dtype, rows, c, i % 2 == 1);
        }
    }
    // More rows than find a place at once, of widths where a row is a warp's and where it is a block's.
    check(&device, &mut random, DType::Bf16, 6500, 12, true);
    check(&device, &mut random, DType::Bf16, 1700, 260, false);
}
