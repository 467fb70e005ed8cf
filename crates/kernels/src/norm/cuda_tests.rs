//! The norms on the device against their f64 twins.

use super::{DeviceNorm, NormParameters, Unrounded, reference};
use crate::DType;
use crate::cuda::DeviceBuffer;
use crate::cuda::rounding::{assert_close, last_bits, numbers_of, plain, poisoned, poisoned_f32};
use crate::cuda::testing::device;
use crate::testing::Random;

/// Around a mean of 2 the differences lose a bit or two.
const TOLERANCE: f64 = 1e-5;

#[test]
fn cuda_norms_agree_with_the_reference() {
    let Some(device) = device("cuda_norms_agree_with_the_reference") else { return };
    let mut random = Random(11);
    let widths = [32, 50, 768, 1000, 2048, 4096, 16384];
    for (i, &c) in widths.iter().enumerate() {
        let dtype = DType::ALL[i % 3];
        let norm = DeviceNorm::new(&device, &plain(dtype, c)).unwrap();
        let rows = 7;
        let x: Vec<f32> = random.row(rows * c).iter().map(|x| x * 3.0 + 2.0).collect();
        let (weight, bias) = (random.row(c), random.row(c));
        let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
        let (residual, device_weight, device_bias) = (copy(&x), copy(&weight), copy(&bias));
        for layer in [false, true] {
            let parameters = if layer {
                NormParameters::Layer { weight: &device_weight, bias: &device_bias }
            } else {
                NormParameters::Rms { weight: &device_weight }
            };
            let want = |row: usize| {
                let x = &x[row * c..][..c];
                if layer {
                    reference::layer_norm(x, &weight, &bias, 1e-5)
                } else {
                    reference::rms_norm(x, &weight, 1e-5)
                }
            };
            let what = format!("{dtype} {c} layer {layer}");
            let check = |normed: &DeviceBuffer<u8>, wide: Option<&DeviceBuffer<f32>>, sources: &[u32]| {
                let narrow = numbers_of(&normed.read().unwrap(), dtype);
                let wide = wide.map(|wide| wide.read().unwrap());
                for (i, narrow) in narrow.chunks(c).enumerate() {
                    let wide = wide.as_ref().map(|wide| &wide[i * c..][..c]);
                    match sources.get(i).filter(|&&source| source != u32::MAX) {
                        Some(&source) => {
                            let want = want(source as usize);
                            assert_close(&what, narrow, &want, last_bits(dtype).max(TOLERANCE));
                            if let Some(wide) = wide {
                                assert_close(&what, wide, &want, TOLERANCE);
                            }
                        }
                        None => assert!(narrow.iter().all(|x| x.is_nan()), "{what}: row {i} was written"),
                    }
                }
            };
            let (normed, wide) =
                (poisoned(&device, (rows + 1) * c * dtype.bytes()), poisoned_f32(&device, (rows + 1) * c));
            norm.apply(rows, parameters, 1e-5, &residual, &normed, Unrounded::Rows(&wide)).unwrap();
            let all: Vec<u32> = (0..rows as u32).collect();
            check(&normed, Some(&wide), &all);
            // Both parts of a number are what it was, to twice the digits.
            let rest = poisoned(&device, (rows + 1) * c * dtype.bytes());
            norm.apply(rows, parameters, 1e-5, &residual, &normed, Unrounded::Rest(&rest)).unwrap();
            check(&normed, None, &all);
            let parts = [&normed, &rest].map(|part| numbers_of(&part.read().unwrap(), dtype));
            let both: Vec<f32> = parts[0].iter().zip(&parts[1]).map(|(high, rest)| high + rest).collect();
            let want: Vec<f64> = wide.read().unwrap()[..rows * c].iter().map(|&x| f64::from(x)).collect();
            assert_close(&what, &both[..rows * c], &want, last_bits(dtype) * last_bits(dtype));
            assert!(both[rows * c..].iter().all(|x| x.is_nan()), "{what}: past the end");
            let normed = poisoned(&device, 4 * c * dtype.bytes());
            let sources = [6, u32::MAX, 2];
            let device_sources = DeviceBuffer::copy_of(&device, "a test", &sources).unwrap();
            norm.apply_gathered(parameters, 1e-5, &residual, &device_sources, 3, &normed, Unrounded::None)
                .unwrap();
            check(&normed, None, &sources);
            // Less than all rows leaves the others.
            let normed = poisoned(&device, 4 * c * dtype.bytes());
            norm.apply(1, parameters, 1e-5, &residual, &normed, Unrounded::None).unwrap();
            check(&normed, None, &all[..1]);
        }
    }
}
