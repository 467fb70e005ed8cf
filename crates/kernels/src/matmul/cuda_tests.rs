//! Products on the device against f64 sums.

use super::fill::hash;
use super::{
    BlockFormat, DeviceBias, DeviceMatmul, DeviceMatrix, DeviceRandom, Orientation, PackedMatrix, Part,
    QuantisedMatrix, Target, TensorBytes,
};
use crate::activation::reference::{gelu_erf, gelu_tanh, silu_mul};
use crate::cuda::rounding::{
    assert_close, bytes_of, last_bits, numbers_of, plain, poisoned, poisoned_f32, rounded, upload,
};
use crate::cuda::testing::device;
use crate::cuda::{Device, DeviceBuffer, Graph, Specialisation};
use crate::norm::NormParameters;
use crate::norm::reference::{layer_norm as layer_norm_of, rms_norm as rms_norm_of};
use crate::testing::Random;
use crate::{DType, KernelError, Team, layer_norm, rms_norm};

/// Sums of up to 16384 products of numbers around 1, scaled to be around 1, in f32.
const SUM_TOLERANCE: f64 = 2e-5;
const ROWS: [usize; 8] = [1, 2, 3, 4, 5, 8, 14, 33];

fn tolerance(dtype: DType) -> f64 {
    last_bits(dtype).max(SUM_TOLERANCE)
}

/// x `[rows, k]` by w `[n, k]`, and a bias.
fn sums(x: &[f32], w: &[f32], bias: Option<&[f32]>, k: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.chunks(k) {
        for (n, w) in w.chunks(k).enumerate() {
            let sum: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
            out.push(sum + bias.map_or(0.0, |bias| f64::from(bias[n])));
        }
    }
    out
}

struct Weights {
    values: Vec<f32>,
    matrix: DeviceMatrix,
    bias: Vec<f32>,
    device_bias: DeviceBias,
}

impl Weights {
    fn new(device: &Device, random: &mut Random, n: usize, k: usize, dtype: DType) -> Self {
        let scale = 1.7 / (k as f32).sqrt();
        let values: Vec<f32> = random.row(n * k).iter().map(|x| x * scale).collect();
        let matrix = DeviceMatrix::uninitialized(device, n, k, dtype).unwrap();
        matrix.upload_rows(0, &bytes_of(&values, dtype)).unwrap();
        // As in a checkpoint, in the format of the weights.
        let bias = rounded(&random.row(n), dtype);
        let device_bias = DeviceBias::new(device, dtype, &bias).unwrap();
        Self { values: rounded(&values, dtype), matrix, bias, device_bias }
    }

    /// Quantised as the processor does it.
    fn in_blocks(device: &Device, random: &mut Random, n: usize, k: usize, format: BlockFormat) -> Self {
        let plain = Self::new(device, random, n, k, DType::F32);
        let team = Team::new(4).unwrap();
        let bytes = bytes_of(&plain.values, DType::F32);
        let source = TensorBytes { dtype: DType::F32, bytes: &bytes };
        let part = Part { source, orientation: Orientation::OutputsByInputs, outputs: n };
        let mut host = QuantisedMatrix::zeroed(n, k, format).unwrap();
        host.fill(&team, 0, &part).unwrap();
        let mut values = plain.values;
        values.chunks_mut(k).enumerate().for_each(|(output, row)| host.row(output, row));
        let matrix = DeviceMatrix::zeroed_blocks(device, n, k, format).unwrap();
        let filler = DeviceRandom::new(device, &plain_bf16()).unwrap();
        matrix.fill(&filler, &team, 0, &part).unwrap();
        let bias = rounded(&plain.bias, DType::Bf16);
        let device_bias = DeviceBias::new(device, DType::Bf16, &bias).unwrap();
        Self { values, matrix, bias, device_bias }
    }
}

fn plain_bf16() -> Specialisation {
    plain(DType::Bf16, 32)
}

/// Products with weights of up to so many elements in blocks.
fn with_blocks(device: &Device, most: usize) -> DeviceMatmul {
    DeviceMatmul::new(device, &plain_bf16()).unwrap().with_blocks(most).unwrap()
}

/// Sums in tensor cores from where the offset of 4-bit codes has them begin.
const BLOCK_TOLERANCE: f64 = 6e-5;
/// Of weights that were rounded to bf16 on the way: five deviations of sums of such roundings.
const AS_NUMBERS: f64 = 5e-3;

#[test]
fn cuda_products_with_blocks_agree_with_their_numbers() {
    let Some(device) = device("cuda_products_with_blocks_agree_with_their_numbers") else { return };
    let mut random = Random(27);
    let shapes = [
        (64, 128),
        (33, 96),
        (7, 32),
        (50, 2080),
        (258, 4096),
        (4104, 512),
        (17, 14336),
        (8192, 288),
        (96, 16384),
    ];
    for format in BlockFormat::ALL {
        for (n, k) in shapes {
            let weights = Weights::in_blocks(&device, &mut random, n, k, format);
            // Room for a part of the outputs only.
            let matmul = with_blocks(&device, (n * k / 3).max(32 * k));
            for rows in [1, 2, 3, 8, 9, 16, 17, 40, 64, 65, 130] {
                if rows > 40 && n * k > 1 << 20 {
                    continue;
                }
                let x = rounded(&random.row(rows * k), DType::Bf16);
                let device_x = upload(&device, &x, DType::Bf16);
                let exact = if rows > 64 { AS_NUMBERS } else { BLOCK_TOLERANCE };
                for biased in [false, true] {
                    let bias = biased.then_some(&weights.bias[..]);
                    let want = sums(&x, &weights.values, bias, k);
                    let what = format!("{format} [{rows}, {k}] x [{n}], bias {biased}");
                    let dtype = DType::Bf16;
                    check_targets(
                        &device, &matmul, &weights, biased, &device_x, rows, dtype, exact, &want, &what,
                    );
                }
            }
        }
    }
}

#[test]
fn cuda_gated_products_with_blocks_agree_with_their_numbers() {
    let Some(device) = device("cuda_gated_products_with_blocks_agree_with_their_numbers") else { return };
    let mut random = Random(28);
    for format in BlockFormat::ALL {
        for (m, k) in [(64, 128), (32, 96), (4800, 512), (144, 4096), (16, 14336)] {
            let weights = Weights::in_blocks(&device, &mut random, 2 * m, k, format);
            let matmul = with_blocks(&device, 2 * m * k);
            for rows in [1, 4, 8, 16, 33] {
                assert!(matmul.gates(&weights.matrix, rows));
                let x = rounded(&random.row(rows * k), DType::Bf16);
                let device_x = upload(&device, &x, DType::Bf16);
                let out = poisoned(&device, (rows + 1) * m * 2);
                matmul.product(&device_x, &weights.matrix, None, rows, Target::SiluMul(&out)).unwrap();
                let gate_up: Vec<f32> =
                    sums(&x, &weights.values, None, k).iter().map(|&x| x as f32).collect();
                let want = silu_mul(&gate_up, m);
                let got = numbers_of(&out.read().unwrap(), DType::Bf16);
                let what = format!("{format} [{rows}, {k}] x [2 * {m}]");
                assert_close(&what, &got[..rows * m], &want, tolerance(DType::Bf16));
                assert!(got[rows * m..].iter().all(|x| x.is_nan()), "{what}: past the end");
            }
        }
        // Gates that do not end with a panel are multiplied without their ups.
        let weights = Weights::in_blocks(&device, &mut random, 48, 64, format);
        let matmul = with_blocks(&device, 48 * 64);
        assert!(!matmul.gates(&weights.matrix, 1));
        let (x, out) = (poisoned(&device, 1 << 12), poisoned(&device, 1 << 12));
        let refused = matmul.product(&x, &weights.matrix, None, 1, Target::SiluMul(&out));
        assert!(matches!(refused, Err(KernelError::Invalid { .. })));
    }
}

/// Of a norm that was rounded to bf16: a number of it may fall the other way.
const OF_ROUNDED_NORM: f64 = 4e-3;

#[test]
fn cuda_one_row_with_blocks_takes_a_norm_along() {
    let Some(device) = device("cuda_one_row_with_blocks_takes_a_norm_along") else { return };
    let mut random = Random(31);
    for format in BlockFormat::ALL {
        for (n, k) in [(64, 128), (33, 96), (50, 2080), (4104, 512), (640, 4096), (17, 14336)] {
            let weights = Weights::in_blocks(&device, &mut random, n, k, format);
            let matmul = with_blocks(&device, n * k);
            let residual: Vec<f32> = random.row(k).iter().map(|x| x * 2.0 + 1.0).collect();
            let (scales, shift) = (random.row(k), random.row(k));
            let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
            let (device_residual, weight, bias) = (copy(&residual), copy(&scales), copy(&shift));
            if !matmul.norms(&weights.matrix, 1) {
                assert!(device.facts().capability.0 < 9, "{format} [{k}] x [{n}]");
                continue;
            }
            assert!(!matmul.norms(&weights.matrix, 2));
            for (norm, normed) in [
                (NormParameters::Rms { weight: &weight }, rms_norm_of(&residual, &scales, 1e-5)),
                (
                    NormParameters::Layer { weight: &weight, bias: &bias },
                    layer_norm_of(&residual, &scales, &shift, 1e-5),
                ),
            ] {
                let out = poisoned_f32(&device, n + 1);
                let target = Target::StoreF32(&out);
                matmul
                    .normed_product(&device_residual, norm, 1e-5, &weights.matrix, None, 1, target)
                    .unwrap();
                let normed: Vec<f32> = normed.iter().map(|&x| x as f32).collect();
                let want = sums(&rounded(&normed, DType::Bf16), &weights.values, None, k);
                let got = out.read().unwrap();
                assert_close(&format!("{format} [{k}] x [{n}], {norm:?}"), &got[..n], &want, OF_ROUNDED_NORM);
                assert!(got[n].is_nan(), "{format}: past the end");
            }
        }
    }
}

#[test]
fn cuda_recorded_products_with_blocks_are_still_right() {
    let Some(device) = device("cuda_recorded_products_with_blocks_are_still_right") else { return };
    let mut random = Random(29);
    let (n, k) = (512, 1024);
    let matmul = with_blocks(&device, n * k);
    for (format, rows) in
        BlockFormat::ALL.into_iter().flat_map(|format| [(format, 1), (format, 12), (format, 100)])
    {
        let weights = Weights::in_blocks(&device, &mut random, n, k, format);
        let x = rounded(&random.row(rows * k), DType::Bf16);
        let (device_x, bias) = (upload(&device, &x, DType::Bf16), Some(&weights.device_bias));
        let residual = DeviceBuffer::<f32>::zeroed(&device, "a test", rows * n).unwrap();
        let product = || matmul.product(&device_x, &weights.matrix, bias, rows, Target::Add(&residual));
        let seconds = matmul.tune(&device_x, &weights.matrix, bias, rows, Target::Add(&residual)).unwrap();
        assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
        residual.fill_bytes(0).unwrap();
        let mut graph = Graph::record(&device, || product().and_then(|()| product())).unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        let want: Vec<f64> =
            sums(&x, &weights.values, Some(&weights.bias), k).iter().map(|x| 4.0 * x).collect();
        let exact = if rows > 64 { AS_NUMBERS } else { BLOCK_TOLERANCE };
        assert_close(&format!("{format} {rows} rows"), &residual.read().unwrap(), &want, 4.0 * exact);
    }
}

#[test]
fn cuda_blocks_come_in_parts_and_random_ones_are_those_of_the_cpu() {
    let name = "cuda_blocks_come_in_parts_and_random_ones_are_those_of_the_cpu";
    let Some(device) = device(name) else { return };
    let team = Team::new(2).unwrap();
    let filler = DeviceRandom::new(&device, &plain_bf16()).unwrap();
    for (format, k) in BlockFormat::ALL.into_iter().flat_map(|format| [(format, 96), (format, 256)]) {
        let (n, seed, scale) = (75, 0x1234_5678_9abc_u64, 0.37);
        let number =
            |at: usize| (hash(at as u64 ^ seed.wrapping_mul(0xd129_0de2_6b53_4f35)) * 2.0 - 1.0) * scale;
        let values: Vec<f32> = (0..n * k).map(number).collect();
        let random = DeviceMatrix::random_blocks(&filler, &device, n, k, format, scale, seed).unwrap();
        let parts = DeviceMatrix::zeroed_blocks(&device, n, k, format).unwrap();
        for (first, outputs) in [(5, 40), (0, 5), (45, 3), (48, 27)] {
            let bytes = bytes_of(&values[first * k..(first + outputs) * k], DType::F32);
            let source = TensorBytes { dtype: DType::F32, bytes: &bytes };
            let part = Part { source, orientation: Orientation::OutputsByInputs, outputs };
            parts.fill(&filler, &team, first, &part).unwrap();
        }
        assert!(parts.data().read().unwrap() == random.data().read().unwrap(), "{format}, {k} inputs");
        let host = QuantisedMatrix::random(n, k, format, scale, seed).unwrap();
        let matmul = with_blocks(&device, n * k);
        let (x, mut row) = (rounded(&Random(3).row(k), DType::Bf16), vec![0.0; k]);
        let out = poisoned_f32(&device, n);
        let device_x = upload(&device, &x, DType::Bf16);
        matmul.product(&device_x, &random, None, 1, Target::StoreF32(&out)).unwrap();
        let want: Vec<f64> = (0..n)
            .map(|output| {
                host.row(output, &mut row);
                x.iter().zip(&row).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum()
            })
            .collect();
        assert_close(&format!("{format}, {k} inputs"), &out.read().unwrap(), &want, BLOCK_TOLERANCE);
    }
}

#[test]
fn cuda_products_agree_with_the_reference() {
    let Some(device) = device("cuda_products_agree_with_the_reference") else { return };
    let mut random = Random(21);
    let shapes = [
        (64, 128),
        (33, 72),
        (50, 264),
        (7, 13),
        (1, 8),
        (3, 4616),
        (258, 4096),
        (4103, 512),
        (6150, 1032),
        (135, 8192),
        (40, 14336),
        (96, 16384),
    ];
    for dtype in DType::ALL {
        let matmul = DeviceMatmul::new(&device, &plain(dtype, 32)).unwrap();
        for (n, k) in shapes {
            let weights = Weights::new(&device, &mut random, n, k, dtype);
            for rows in ROWS {
                let x = rounded(&random.row(rows * k), dtype);
                let device_x = upload(&device, &x, dtype);
                for biased in [false, true] {
                    let bias = biased.then_some(&weights.bias[..]);
                    let want = sums(&x, &weights.values, bias, k);
                    let what = format!("{dtype} [{rows}, {k}] x [{n}], bias {biased}");
                    let exact = SUM_TOLERANCE;
                    check_targets(
                        &device, &matmul, &weights, biased, &device_x, rows, dtype, exact, &want, &what,
                    );
                }
            }
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one test in two parts")]
fn check_targets(
    device: &Device,
    matmul: &DeviceMatmul,
    weights: &Weights,
    biased: bool,
    x: &DeviceBuffer<u8>,
    rows: usize,
    dtype: DType,
    exact: f64,
    want: &[f64],
    what: &str,
) {
    let (n, count) = (weights.matrix.outputs(), want.len());
    let bias = biased.then_some(&weights.device_bias);
    let run = |target: Target<'_>| matmul.product(x, &weights.matrix, bias, rows, target).unwrap();
    let map = |f: fn(f64) -> f64| want.iter().map(|&x| f(x)).collect::<Vec<f64>>();

    let narrow = |name: &str, target: &dyn Fn(&DeviceBuffer<u8>), want: &[f64]| {
        let out = poisoned(device, (count + n) * dtype.bytes());
        target(&out);
        let got = numbers_of(&out.read().unwrap(), dtype);
        assert_close(&format!("{what}, {name}"), &got[..count], want, tolerance(dtype).max(exact));
        assert!(got[count..].iter().all(|x| x.is_nan()), "{what}, {name}: past the end");
    };
    narrow("store", &|out| run(Target::Store(out)), want);
    narrow("gelu tanh", &|out| run(Target::GeluTanh(out)), &map(gelu_tanh));
    narrow("gelu", &|out| run(Target::Gelu(out)), &map(gelu_erf));

    let out = poisoned_f32(device, count + n);
    run(Target::StoreF32(&out));
    let got = out.read().unwrap();
    assert_close(&format!("{what}, f32"), &got[..count], want, exact);
    assert!(got[count..].iter().all(|x| x.is_nan()), "{what}: past the end of f32");

    let before: Vec<f32> = Random(count as u64).row(count + n);
    let out = DeviceBuffer::copy_of(device, "a test", &before).unwrap();
    run(Target::Add(&out));
    let got = out.read().unwrap();
    let sum: Vec<f64> = want.iter().zip(&before).map(|(&want, &before)| want + f64::from(before)).collect();
    assert_close(&format!("{what}, add"), &got[..count], &sum, exact);
    assert_eq!(got[count..], before[count..], "{what}: past the end of the sum");
}

/// Few outputs of many inputs, in tensor cores: blocks of a cluster share them and add up what each made of its inputs.
#[test]
fn cuda_outputs_that_a_cluster_shares_agree_with_the_reference() {
    let Some(device) = device("cuda_outputs_that_a_cluster_shares_agree_with_the_reference") else { return };
    let (mut random, dtype) = (Random(24), DType::Bf16);
    let matmul = DeviceMatmul::new(&device, &plain(dtype, 32)).unwrap();
    for (n, k) in [(96, 1024), (33, 4104), (250, 2056)] {
        let weights = Weights::new(&device, &mut random, n, k, dtype);
        for rows in [5, 16] {
            let x = rounded(&random.row(rows * k), dtype);
            let want = sums(&x, &weights.values, Some(&weights.bias), k);
            let what = format!("[{rows}, {k}] x [{n}]");
            let x = upload(&device, &x, dtype);
            check_targets(&device, &matmul, &weights, true, &x, rows, dtype, SUM_TOLERANCE, &want, &what);
        }
    }
}

#[test]
fn cuda_products_of_a_norm_agree_with_norm_and_product() {
    let Some(device) = device("cuda_products_of_a_norm_agree_with_norm_and_product") else { return };
    let (mut random, team) = (Random(22), Team::new(1).unwrap());
    for dtype in DType::ALL {
        let matmul = DeviceMatmul::new(&device, &plain(dtype, 32)).unwrap();
        for (n, k) in [(64, 128), (33, 72), (1030, 1000), (258, 4096), (140, 5128)] {
            let weights = Weights::new(&device, &mut random, n, k, dtype);
            let wide = Weights::new(&device, &mut random, n, k, DType::F32);
            let copy = |values: &[f32]| DeviceBuffer::copy_of(&device, "a test", values).unwrap();
            for rows in 1..=4 {
                let residual: Vec<f32> = random.row(rows * k).iter().map(|x| x * 2.0 + 1.0).collect();
                let (weight, shift) = (random.row(k), random.row(k));
                let (device_residual, device_weight, device_shift) =
                    (copy(&residual), copy(&weight), copy(&shift));
                for layer in [false, true] {
                    let mut normed = vec![0.0; residual.len()];
                    let norm = if layer {
                        layer_norm(&team, &residual, &weight, &shift, 1e-5, &mut normed).unwrap();
                        NormParameters::Layer { weight: &device_weight, bias: &device_shift }
                    } else {
                        rms_norm(&team, &residual, &weight, 1e-5, &mut normed).unwrap();
                        NormParameters::Rms { weight: &device_weight }
                    };
                    let what = format!("{dtype} [{rows}, {k}] x [{n}], layer {layer}");
                    let out = poisoned(&device, rows * n * dtype.bytes());
                    matmul
                        .normed_product(
                            &device_residual,
                            norm,
                            1e-5,
                            &weights.matrix,
                            Some(&weights.device_bias),
                            rows,
                            Target::Store(&out),
                        )
                        .unwrap();
                    let want = sums(&rounded(&normed, dtype), &weights.values, Some(&weights.bias), k);
                    let got = numbers_of(&out.read().unwrap(), dtype);
                    assert_close(&what, &got, &want, tolerance(dtype));
                    let out = poisoned_f32(&device, rows * n);
                    matmul
                        .normed_product_f32(&device_residual, norm, 1e-5, &wide.matrix, rows, &out)
                        .unwrap();
                    let want = sums(&normed, &wide.values, None, k);
                    assert_close(&format!("{what}, f32"), &out.read().unwrap(), &want, SUM_TOLERANCE);
                }
            }
        }
    }
}

#[test]
fn cuda_gated_products_agree_with_the_reference() {
    let Some(device) = device("cuda_gated_products_agree_with_the_reference") else { return };
    let mut random = Random(23);
    for dtype in DType::ALL {
        let matmul = DeviceMatmul::new(&device, &plain(dtype, 32)).unwrap();
        for (m, k) in [(64, 128), (37, 72), (5000, 512), (130, 4096), (3, 14336)] {
            let weights = Weights::new(&device, &mut random, 2 * m, k, dtype);
            let all: &[usize] = if dtype == DType::F32 { &[1, 2, 3, 4] } else { &[1, 2, 3, 4, 5, 8] };
            for &rows in all {
                if dtype == DType::F32 && rows * k > 3 * 8192 {
                    // The rows do not fit shared memory, and no other kernel multiplies gates.
                    continue;
                }
                let x = rounded(&random.row(rows * k), dtype);
                let device_x = upload(&device, &x, dtype);
                let out = poisoned(&device, (rows + 1) * m * dtype.bytes());
                let target = Target::SiluMul(&out);
                matmul.product(&device_x, &weights.matrix, None, rows, target).unwrap();
                let gate_up: Vec<f32> =
                    sums(&x, &weights.values, None, k).iter().map(|&x| x as f32).collect();
                let want = silu_mul(&gate_up, m);
                let got = numbers_of(&out.read().unwrap(), dtype);
                let what = format!("{dtype} [{rows}, {k}] x [2 * {m}]");
                assert_close(&what, &got[..rows * m], &want, tolerance(dtype));
                assert!(got[rows * m..].iter().all(|x| x.is_nan()), "{what}: past the end");
            }
        }
        let weights = Weights::new(&device, &mut random, 8, 16, dtype);
        let out = poisoned(&device, 1 << 12);
        let x = poisoned(&device, 1 << 12);
        let refused = matmul.product(&x, &weights.matrix, None, 17, Target::SiluMul(&out));
        assert!(matches!(refused, Err(KernelError::Invalid { .. })));
    }
}

#[test]
fn cuda_products_in_f32_agree_with_the_reference_whatever_the_weights_are() {
    let name = "cuda_products_in_f32_agree_with_the_reference_whatever_the_weights_are";
    let Some(device) = device(name) else { return };
    let mut random = Random(24);
    for dtype in DType::ALL {
        let matmul = DeviceMatmul::new(&device, &plain(dtype, 32)).unwrap();
        for (n, k) in [(128, 2048), (9, 36), (5, 7), (1024, 512)] {
            let weights = Weights::new(&device, &mut random, n, k, DType::F32);
            for rows in ROWS {
                let x = random.row(rows * k);
                let out = poisoned_f32(&device, (rows + 1) * n);
                let device_x = DeviceBuffer::copy_of(&device, "a test", &x).unwrap();
                matmul.product_f32(&device_x, &weights.matrix, rows, &out).unwrap();
                let got = out.read().unwrap();
                let want = sums(&x, &weights.values, None, k);
                let what = format!("{dtype} [{rows}, {k}] x [{n}]");
                assert_close(&what, &got[..rows * n], &want, SUM_TOLERANCE);
                assert!(got[rows * n..].iter().all(|x| x.is_nan()), "{what}: past the end");
            }
        }
    }
}

#[test]
fn cuda_products_in_parts_have_twice_the_digits() {
    let Some(device) = device("cuda_products_in_parts_have_twice_the_digits") else { return };
    let mut random = Random(27);
    for dtype in [DType::F16, DType::Bf16] {
        let matmul = DeviceMatmul::new(&device, &plain(dtype, 32)).unwrap();
        let parts = |numbers: &[f32]| {
            let high = rounded(numbers, dtype);
            let rest: Vec<f32> = numbers.iter().zip(&high).map(|(x, high)| x - high).collect();
            [bytes_of(&high, dtype), bytes_of(&rest, dtype)]
        };
        for (rows, n, k) in [(300, 256, 512), (33, 24, 64), (257, 8, 2048)] {
            let (x, w) = (random.row(rows * k), random.row(n * k));
            let xs = parts(&x).map(|part| DeviceBuffer::copy_of(&device, "a test", &part).unwrap());
            let ws = parts(&w).map(|part| {
                let matrix = DeviceMatrix::uninitialized(&device, n, k, dtype).unwrap();
                matrix.upload_rows(0, &part).unwrap();
                matrix
            });
            let out = poisoned_f32(&device, (rows + 1) * n);
            matmul.product_in_parts([&xs[0], &xs[1]], [&ws[0], &ws[1]], rows, &out).unwrap();
            let got = out.read().unwrap();
            let what = format!("{dtype} [{rows}, {k}] x [{n}] in parts");
            // Of sums of k products of numbers about 1, each off by twice what two roundings leave.
            let tolerance = last_bits(dtype) * last_bits(dtype) * (k as f64).sqrt();
            assert_close(&what, &got[..rows * n], &sums(&x, &w, None, k), tolerance);
            assert!(got[rows * n..].iter().all(|x| x.is_nan()), "{what}: past the end");
        }
    }
}

#[test]
fn cuda_tuned_and_recorded_products_are_still_right() {
    let Some(device) = device("cuda_tuned_and_recorded_products_are_still_right") else { return };
    let (mut random, dtype) = (Random(25), DType::Bf16);
    let matmul = DeviceMatmul::new(&device, &plain(dtype, 32)).unwrap();
    let (n, k) = (512, 1024);
    let weights = Weights::new(&device, &mut random, n, k, dtype);
    for rows in [1, 4, 8, 16] {
        let x = rounded(&random.row(rows * k), dtype);
        let (device_x, bias) = (upload(&device, &x, dtype), Some(&weights.device_bias));
        let residual = DeviceBuffer::<f32>::zeroed(&device, "a test", rows * n).unwrap();
        let target = Target::Add(&residual);
        let seconds = matmul.tune(&device_x, &weights.matrix, bias, rows, target).unwrap();
        assert!(seconds > 0.0 && seconds < 1.0, "{seconds}");
        let product = || matmul.product(&device_x, &weights.matrix, bias, rows, target);
        residual.fill_bytes(0).unwrap();
        // Twice in the graph, and the graph twice.
        let mut graph = Graph::record(&device, || product().and_then(|()| product())).unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        let sum = sums(&x, &weights.values, Some(&weights.bias), k);
        let want: Vec<f64> = sum.iter().map(|x| 4.0 * x).collect();
        assert_close(&format!("{rows} rows"), &residual.read().unwrap(), &want, 4.0 * SUM_TOLERANCE);
    }
}

#[test]
fn cuda_weights_lie_as_the_file_says() {
    let Some(device) = device("cuda_weights_lie_as_the_file_says") else { return };
    let (mut random, team) = (Random(26), Team::new(2).unwrap());
    let filler = DeviceRandom::new(&device, &plain(DType::F32, 32)).unwrap();
    for source in DType::ALL {
        for target in DType::ALL {
            for orientation in [Orientation::OutputsByInputs, Orientation::InputsByOutputs] {
                let (n, k, outputs, first) = (90, 77, 41, 40);
                let values = rounded(&random.row(outputs * k), source);
                let matrix = DeviceMatrix::uninitialized(&device, n, k, target).unwrap();
                matrix.data().fill_bytes(0xff).unwrap();
                let bytes = bytes_of(&values, source);
                let source = TensorBytes { dtype: source, bytes: &bytes };
                matrix.fill(&filler, &team, first, &Part { source, orientation, outputs }).unwrap();
                let got = numbers_of(&matrix.data().read().unwrap(), target);
                for (at, &got) in got.iter().enumerate() {
                    let (output, input) = (at / k, at % k);
                    if !(first..first + outputs).contains(&output) {
                        assert!(got.is_nan(), "output {output} was written");
                        continue;
                    }
                    let from = match orientation {
                        Orientation::OutputsByInputs => (output - first) * k + input,
                        Orientation::InputsByOutputs => input * outputs + output - first,
                    };
                    assert_eq!(got, rounded(&values[from..=from], target)[0], "{output} {input}");
                }
            }
        }
    }
}

#[test]
fn cuda_random_weights_are_those_of_the_cpu() {
    let Some(device) = device("cuda_random_weights_are_those_of_the_cpu") else { return };
    let filler = DeviceRandom::new(&device, &plain(DType::F32, 32)).unwrap();
    for dtype in DType::ALL {
        let (n, k, seed) = (77, 130, 0x1234_5678_9abc);
        let matrix = DeviceMatrix::random(&filler, &device, n, k, dtype, 0.37, seed).unwrap();
        let packed = PackedMatrix::random(n, k, dtype, 0.37, seed).unwrap();
        let got = numbers_of(&matrix.data().read().unwrap(), dtype);
        let mut want = vec![0.0; k];
        for (output, got) in got.chunks(k).enumerate() {
            packed.row(output, &mut want);
            assert_eq!(got, want, "{dtype}, output {output}");
        }
        let buffer = poisoned(&device, 5003 * dtype.bytes());
        filler.fill(&buffer, dtype, 5000, 2.0, 7).unwrap();
        let got = numbers_of(&buffer.read().unwrap(), dtype);
        assert!(got[..5000].iter().all(|x| x.abs() <= 2.0) && got[5000..].iter().all(|x| x.is_nan()));
        let mean = got[..5000].iter().sum::<f32>() / 5000.0;
        assert!(mean.abs() < 0.1, "{mean}");
    }
}
