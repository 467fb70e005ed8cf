//! Every instruction set against the f64 oracle, and the bit-equality that the contract promises.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::DType;

const EPILOGUES: [Epilogue; 4] = [Epilogue::Store, Epilogue::Add, Epilogue::GeluTanh, Epilogue::Gelu];

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

fn rounded(value: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F32 => value,
        DType::F16 => f16::from_f32(value).to_f32(),
        DType::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// The sum of k products of numbers up to 1, accumulated in f32.
fn tolerance(k: usize) -> f64 {
    4e-7 * (k as f64).max(8.0)
}

fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_instruction_set_agrees_with_the_reference(
        t in 1usize..40, k in 1usize..150, n in 1usize..150, seed: u64,
        dtype in dtype(), with_bias: bool, threads in 1usize..4,
    ) {
        let team = Team::new(threads).unwrap();
        let w = PackedMatrix::random(n, k, dtype, 1.0, seed).unwrap();
        let (x, bias) = (numbers(t * k, seed), numbers(n, !seed));
        let bias = with_bias.then_some(&bias[..]);
        let before = numbers(t * n, seed ^ 77);
        for epilogue in EPILOGUES {
            let want = reference::matmul(&x, &w, bias, epilogue, &before);
            for &isa in Isa::available() {
                let mut out = before.clone();
                matmul_with(isa, &team, &x, &w, bias, epilogue, &mut out).unwrap();
                for (i, (&got, &want)) in out.iter().zip(&want).enumerate() {
                    prop_assert!((f64::from(got) - want).abs() < tolerance(k),
                        "{isa:?} {epilogue:?} [{t}, {k}] x [{n}]: element {i} is {got}, want {want}");
                }
            }
        }
    }

    #[test]
    fn packing_is_indexing(
        k in 1usize..100, outputs in prop::collection::vec(1usize..80, 1..4), seed: u64,
        source in dtype(), target in dtype(), transposed: bool, shift in 0usize..4,
    ) {
        let team = Team::new(2).unwrap();
        let orientation =
            if transposed { Orientation::InputsByOutputs } else { Orientation::OutputsByInputs };
        let values: Vec<Vec<f32>> =
            outputs.iter().enumerate().map(|(i, n)| numbers(n * k, seed ^ i as u64)).collect();
        // A tensor in a mapped file starts at any byte.
        let bytes: Vec<Vec<u8>> =
            values.iter().map(|v| [vec![0; shift], bytes_of(v, source)].concat()).collect();
        let parts: Vec<Part<'_>> = bytes.iter().zip(&outputs).map(|(bytes, &outputs)| Part {
            source: TensorBytes { dtype: source, bytes: &bytes[shift..] }, orientation, outputs,
        }).collect();
        let packed = PackedMatrix::pack(&team, &parts, k, target).unwrap();
        let mut row = vec![0.0; k];
        let mut first = 0;
        for (values, &n) in values.iter().zip(&outputs) {
            for output in 0..n {
                packed.row(first + output, &mut row);
                for (input, &got) in row.iter().enumerate() {
                    let at = if transposed { input * n + output } else { output * k + input };
                    prop_assert_eq!(got, rounded(rounded(values[at], source), target));
                }
            }
            first += n;
        }
        prop_assert_eq!((packed.outputs(), packed.inputs()), (first, k));
    }

    #[test]
    fn a_row_does_not_depend_on_its_company(
        t in 2usize..60, k in 1usize..200, n in 1usize..100, seed: u64, dtype in dtype(),
    ) {
        assert_rows_are_independent(t, k, n, seed, dtype)?;
    }
}

/// Rows of one call against calls with one row and with a chunk, on one and two threads.
fn assert_rows_are_independent(
    t: usize,
    k: usize,
    n: usize,
    seed: u64,
    dtype: DType,
) -> Result<(), TestCaseError> {
    let (one, two) = (Team::new(1).unwrap(), Team::new(2).unwrap());
    let w = PackedMatrix::random(n, k, dtype, 1.0, seed).unwrap();
    let (x, bias, before) = (numbers(t * k, seed), numbers(n, !seed), numbers(t * n, 3));
    for &isa in Isa::available() {
        for epilogue in EPILOGUES {
            let run = |team: &Team, rows: std::ops::Range<usize>| {
                let mut out = before[rows.start * n..rows.end * n].to_vec();
                let x = &x[rows.start * k..rows.end * k];
                matmul_with(isa, team, x, &w, Some(&bias), epilogue, &mut out).unwrap();
                out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let all = run(&two, 0..t);
            prop_assert!(all == run(&one, 0..t), "{isa:?}: one thread differs from two");
            for row in 0..t {
                prop_assert!(
                    all[row * n..(row + 1) * n] == run(&two, row..row + 1),
                    "{isa:?}: row {row} alone"
                );
            }
            let cut = t / 3;
            prop_assert!(all[cut * n..] == run(&two, cut..t), "{isa:?}: a chunk from {cut}");
        }
    }
    Ok(())
}

#[test]
fn a_row_does_not_depend_on_its_company_when_inputs_are_blocked() {
    for dtype in DType::ALL {
        assert_rows_are_independent(100, 2200, 70, 11, dtype).unwrap();
    }
}

#[test]
fn nan_and_infinity_come_through() {
    let team = Team::new(1).unwrap();
    let w = PackedMatrix::random(33, 5, DType::F32, 1.0, 1).unwrap();
    for &isa in Isa::available() {
        let mut out = vec![0.0; 66];
        let x = [f32::NAN, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        matmul_with(isa, &team, &x, &w, None, Epilogue::GeluTanh, &mut out).unwrap();
        assert!(out[..33].iter().all(|y| y.is_nan()) && out[33..].iter().all(|y| y.is_finite()));
    }
}

#[test]
fn wrong_shapes_are_typed_errors() {
    let team = Team::new(2).unwrap();
    let w = PackedMatrix::random(4, 3, DType::Bf16, 1.0, 1).unwrap();
    let call = |x: usize, bias: usize, out: usize| {
        matmul(&team, &vec![0.0; x], &w, Some(&vec![0.0; bias]), Epilogue::Store, &mut vec![0.0; out])
    };
    assert_eq!(call(6, 4, 8), Ok(()));
    assert_eq!(call(0, 4, 0), Ok(()));
    for (x, bias, out) in [(7, 4, 8), (6, 5, 8), (6, 4, 7), (6, 4, 12)] {
        assert!(matches!(call(x, bias, out), Err(KernelError::Length { .. })), "{x} {bias} {out}");
    }
    assert!(matches!(PackedMatrix::zeroed(0, 3, DType::F32), Err(KernelError::Invalid { .. })));
    assert!(matches!(PackedMatrix::zeroed(3, 0, DType::F32), Err(KernelError::Invalid { .. })));
    let huge = PackedMatrix::zeroed(usize::MAX / 2, usize::MAX / 2, DType::F32);
    assert!(matches!(huge, Err(KernelError::TooLarge { .. })));
    let part = |outputs: usize, bytes: &'static [u8]| Part {
        source: TensorBytes { dtype: DType::F32, bytes },
        orientation: Orientation::OutputsByInputs,
        outputs,
    };
    assert!(matches!(
        PackedMatrix::pack(&team, &[part(2, &[0; 23])], 3, DType::F32),
        Err(KernelError::Length { .. })
    ));
    assert!(PackedMatrix::pack(&team, &[part(usize::MAX, &[])], 3, DType::F32).is_err());
    assert!(PackedMatrix::pack(&team, &[part(usize::MAX, &[]), part(2, &[])], 3, DType::F32).is_err());
    let mut w = PackedMatrix::zeroed(4, 3, DType::F32).unwrap();
    assert!(matches!(w.fill(&team, 3, &part(2, &[0; 24])), Err(KernelError::Invalid { .. })));
    assert!(matches!(w.fill(&team, usize::MAX, &part(2, &[0; 24])), Err(KernelError::Invalid { .. })));
    assert_eq!(w.fill(&team, 2, &part(2, &[0; 24])), Ok(()));
    let mut short = [7.0; 2];
    w.row(9, &mut short);
    assert_eq!(short, [0.0; 2], "an output that does not exist");
}
