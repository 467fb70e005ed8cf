//! The activations on the device against their f64 twins.

use super::{DeviceActivation, GeluKind, reference};
use crate::DType;
use crate::cuda::rounding::{assert_close, last_bits, numbers_of, plain, poisoned, rounded, upload};
use crate::cuda::testing::device;
use crate::testing::Random;

/// The f32 exponential on the device, and the rounding of its argument.
const TOLERANCE: f64 = 3e-6;

#[test]
fn cuda_gelus_agree_with_the_reference() {
    let Some(device) = device("cuda_gelus_agree_with_the_reference") else { return };
    let mut random = Random(3);
    for dtype in DType::ALL {
        let activation = DeviceActivation::new(&device, &plain(dtype, 32)).unwrap();
        for count in [1usize, 8, 1003, 70_000] {
            let mut x: Vec<f32> = random.row(count + 5).iter().map(|x| x * 6.0).collect();
            x[0] = -40.0;
            let x = rounded(&x, dtype);
            for (kind, twin) in [
                (GeluKind::Tanh, reference::gelu_tanh as fn(f64) -> f64),
                (GeluKind::Erf, reference::gelu_erf),
            ] {
                let buffer = upload(&device, &x, dtype);
                activation.gelu(kind, count, &buffer).unwrap();
                let got = numbers_of(&buffer.read().unwrap(), dtype);
                let want: Vec<f64> = x[..count].iter().map(|&x| twin(f64::from(x))).collect();
                let tolerance = last_bits(dtype).max(TOLERANCE);
                assert_close(&format!("{dtype} {kind:?} {count}"), &got[..count], &want, tolerance);
                assert_eq!(got[count..], x[count..], "{dtype} {kind:?} {count}: past the end");
            }
        }
    }
}

#[test]
fn cuda_silu_mul_agrees_with_the_reference() {
    let Some(device) = device("cuda_silu_mul_agrees_with_the_reference") else { return };
    let mut random = Random(4);
    for dtype in DType::ALL {
        let activation = DeviceActivation::new(&device, &plain(dtype, 32)).unwrap();
        for (rows, width) in [(1, 1), (3, 37), (5, 64), (2, 14336), (129, 96)] {
            let gate_up: Vec<f32> = random.row(rows * 2 * width).iter().map(|x| x * 5.0).collect();
            let gate_up = rounded(&gate_up, dtype);
            let out = poisoned(&device, (rows + 1) * width * dtype.bytes());
            activation.silu_mul(rows, width, &upload(&device, &gate_up, dtype), &out).unwrap();
            let got = numbers_of(&out.read().unwrap(), dtype);
            let want = reference::silu_mul(&gate_up, width);
            let tolerance = last_bits(dtype).max(TOLERANCE);
            assert_close(&format!("{dtype} [{rows}, {width}]"), &got[..rows * width], &want, tolerance);
            assert!(got[rows * width..].iter().all(|x| x.is_nan()), "past the end");
        }
    }
}
