//! The activations of training against the processor's.

use super::{GeluKind, TrainActivation, gelu, gelu_backward, silu_mul, silu_mul_backward};
use crate::cuda::rounding::{assert_close, last_bits, numbers_of, plain, poisoned, rounded, upload};
use crate::cuda::testing::device;
use crate::testing::Random;
use crate::{DType, Team};

/// Two approximations of one function in f32.
const TOLERANCE: f64 = 2e-6;

fn wide(all: &[f32]) -> Vec<f64> {
    all.iter().map(|&x| f64::from(x)).collect()
}

#[test]
fn cuda_activations_of_training_agree_with_the_processor() {
    let Some(device) = device("cuda_activations_of_training_agree_with_the_processor") else { return };
    let team = Team::new(1).unwrap();
    let mut random = Random(61);
    for dtype in [DType::F32, DType::Bf16] {
        let activation = TrainActivation::new(&device, &plain(dtype, 8)).unwrap();
        let tolerance = last_bits(dtype).max(TOLERANCE);
        for (rows, width) in [(1, 1), (5, 7), (9, 40), (131, 1536)] {
            let spread = |random: &mut Random, count| {
                let row: Vec<f32> = random.row(count).iter().map(|x| x * 12.0).collect();
                rounded(&row, dtype)
            };
            let (gate_up, dy) = (spread(&mut random, 2 * rows * width), spread(&mut random, rows * width));
            let (device_x, device_dy) = (upload(&device, &gate_up, dtype), upload(&device, &dy, dtype));
            let count = rows * width;
            let bytes = count * dtype.bytes();
            let what = format!("{dtype} {rows} x {width}");
            for kind in [GeluKind::Tanh, GeluKind::Erf] {
                let (mut want, mut slope) = (vec![0.0; count], vec![0.0; count]);
                gelu(&team, kind, &gate_up[..count], &mut want).unwrap();
                gelu_backward(&team, kind, &gate_up[..count], &dy, &mut slope).unwrap();
                let out = poisoned(&device, bytes);
                activation.gelu(kind, count, &device_x, None, &out).unwrap();
                assert_close(&what, &numbers_of(&out.read().unwrap(), dtype), &wide(&want), tolerance);
                let out = poisoned(&device, bytes);
                activation.gelu(kind, count, &device_x, Some(&device_dy), &out).unwrap();
                assert_close(&what, &numbers_of(&out.read().unwrap(), dtype), &wide(&slope), tolerance);
            }
            let (mut want, mut slopes) = (vec![0.0; count], vec![0.0; 2 * count]);
            silu_mul(&team, &gate_up, width, &mut want).unwrap();
            silu_mul_backward(&team, &gate_up, width, &dy, &mut slopes).unwrap();
            let out = poisoned(&device, bytes);
            activation.silu_mul(rows, width, &device_x, None, &out).unwrap();
            assert_close(&what, &numbers_of(&out.read().unwrap(), dtype), &wide(&want), tolerance);
            let out = poisoned(&device, 2 * bytes);
            activation.silu_mul(rows, width, &device_x, Some(&device_dy), &out).unwrap();
            assert_close(&what, &numbers_of(&out.read().unwrap(), dtype), &wide(&slopes), tolerance);
        }
    }
}
