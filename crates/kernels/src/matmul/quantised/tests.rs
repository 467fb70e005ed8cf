//! Every instruction set against a plain twin, and the bit-equality that the contract promises.

use half::f16;
use proptest::prelude::*;

use super::activations::RowBlock;
use super::*;
use crate::DType;
use crate::activation::reference::{gelu_erf, gelu_tanh};
use crate::matmul::{Orientation, Part, TensorBytes};

const EPILOGUES: [Epilogue; 4] = [Epilogue::Store, Epilogue::Add, Epilogue::GeluTanh, Epilogue::Gelu];

pub(super) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Blocks of a file: any bits but for the scales, which are numbers up to 1 of either sign.
pub(super) fn blocks(format: BlockFormat, count: usize, seed: u64) -> Vec<u8> {
    let (bytes, scales) = (numbers(count * format.block_bytes(), seed), numbers(2 * count, !seed));
    let mut bytes: Vec<u8> = bytes.iter().map(|x| (x * 128.0) as i32 as u8).collect();
    for (block, scales) in bytes.chunks_mut(format.block_bytes()).zip(scales.chunks(2)) {
        block[..2].copy_from_slice(&f16::from_f32(scales[0]).to_le_bytes());
        if format == BlockFormat::Q4_1 {
            block[2..4].copy_from_slice(&f16::from_f32(scales[1]).to_le_bytes());
        }
    }
    bytes
}

fn matrix(format: BlockFormat, n: usize, k: usize, seed: u64) -> QuantisedMatrix {
    let mut w = QuantisedMatrix::zeroed(n, k, format).unwrap();
    w.fill_blocks(&Team::new(1).unwrap(), 0, n, &blocks(format, n * k / BLOCK, seed)).unwrap();
    w
}

/// The numbers that a row's bytes stand for.
fn rounded(x: &[f32]) -> Vec<f64> {
    let blocks = x.as_chunks::<BLOCK>().0.iter().map(RowBlock::of);
    let numbers = blocks.map(|block| {
        block.fours.as_flattened().iter().map(|&q| f64::from(q) * f64::from(block.scale)).collect::<Vec<_>>()
    });
    numbers.flatten().collect()
}

fn format() -> impl Strategy<Value = BlockFormat> {
    prop::sample::select(BlockFormat::ALL.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_instruction_set_agrees_with_the_plain_sum(
        t in 1usize..36, blocks in 1usize..6, n in 1usize..150, seed: u64,
        format in format(), with_bias: bool, threads in 1usize..4,
    ) {
        let (team, k) = (Team::new(threads).unwrap(), blocks * BLOCK);
        let w = matrix(format, n, k, seed);
        let (x, bias) = (numbers(t * k, seed), numbers(n, !seed));
        let bias = with_bias.then_some(&bias[..]);
        let before = numbers(t * n, seed ^ 77);
        let mut row = vec![0.0; k];
        for epilogue in EPILOGUES {
            for isa in Isa::available_for_bytes() {
                let mut out = before.clone();
                with(isa, &team, &x, &w, bias, epilogue, &mut out).unwrap();
                for output in 0..n {
                    w.row(output, &mut row);
                    for t in 0..t {
                        let x = rounded(&x[t * k..(t + 1) * k]);
                        let sum: f64 = x.iter().zip(&row).map(|(x, &w)| x * f64::from(w)).sum();
                        let sum = sum + bias.map_or(0.0, |bias| f64::from(bias[output]));
                        let size: f64 = x.iter().zip(&row).map(|(x, &w)| (x * f64::from(w)).abs()).sum();
                        let want = match epilogue {
                            Epilogue::Store => sum,
                            Epilogue::Add => f64::from(before[t * n + output]) + sum,
                            Epilogue::GeluTanh => gelu_tanh(sum),
                            Epilogue::Gelu => gelu_erf(sum),
                        };
                        let got = out[t * n + output];
                        // Sums of blocks are exact; a few roundings of numbers as large as all products together remain.
                        prop_assert!((f64::from(got) - want).abs() < 1e-6 * (size + 1.0) * 2.0,
                            "{isa:?} {format} {epilogue:?} [{t}, {k}] x [{n}]: output {output} is {got}, want {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_company(
        t in 2usize..40, blocks in 1usize..8, n in 1usize..100, seed: u64, format in format(),
    ) {
        let (one, two, k) = (Team::new(1).unwrap(), Team::new(2).unwrap(), blocks * BLOCK);
        let w = matrix(format, n, k, seed);
        let (x, bias, before) = (numbers(t * k, seed), numbers(n, !seed), numbers(t * n, 3));
        for isa in Isa::available_for_bytes() {
            let run = |team: &Team, rows: std::ops::Range<usize>| {
                let mut out = before[rows.start * n..rows.end * n].to_vec();
                let x = &x[rows.start * k..rows.end * k];
                with(isa, team, x, &w, Some(&bias), Epilogue::Add, &mut out).unwrap();
                out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let all = run(&two, 0..t);
            prop_assert!(all == run(&one, 0..t), "{isa:?}: one thread differs from two");
            for row in 0..t {
                prop_assert!(all[row * n..(row + 1) * n] == run(&two, row..row + 1), "{isa:?}: row {row} alone");
            }
            let cut = t / 3;
            prop_assert!(all[cut * n..] == run(&two, cut..t), "{isa:?}: a chunk from {cut}");
        }
    }

    #[test]
    fn blocks_come_back_from_their_panels(
        outputs in prop::collection::vec(1usize..80, 1..4), count in 1usize..5, seed: u64, format in format(),
    ) {
        let (team, k) = (Team::new(2).unwrap(), count * BLOCK);
        let mut w = QuantisedMatrix::zeroed(outputs.iter().sum(), k, format).unwrap();
        let mut first = 0;
        for (part, &n) in outputs.iter().enumerate() {
            let bytes = blocks(format, n * count, seed ^ part as u64);
            // Twice: what is there is replaced.
            w.fill_blocks(&team, first, n, &blocks(format, n * count, !seed)).unwrap();
            w.fill_blocks(&team, first, n, &bytes).unwrap();
            let mut row = vec![0.0; k];
            for output in 0..n {
                w.row(first + output, &mut row);
                for (at, row) in row.chunks(BLOCK).enumerate() {
                    let block = &bytes[(output * count + at) * format.block_bytes()..];
                    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
                    let nibble = |i: usize, from: usize| f32::from(block[from + i % 16] >> (i / 16 * 4) & 15);
                    for (i, &got) in row.iter().enumerate() {
                        let want = match format {
                            BlockFormat::Q8_0 => f32::from(block[2 + i] as i8) * half(0),
                            BlockFormat::Q4_0 => (nibble(i, 2) - 8.0) * half(0),
                            BlockFormat::Q4_1 => nibble(i, 4) * half(0) + half(2),
                        };
                        prop_assert_eq!(got.to_bits(), want.to_bits());
                    }
                }
            }
            first += n;
        }
    }

    #[test]
    fn numbers_are_quantised_within_half_a_step_whichever_way_round(
        n in 1usize..70, count in 1usize..4, seed: u64, format in format(),
    ) {
        let (team, k) = (Team::new(2).unwrap(), count * BLOCK);
        let values = numbers(n * k, seed);
        let turned: Vec<f32> = (0..n * k).map(|at| values[at % n * k + at / n]).collect();
        let [straight, turned] = [(&values, Orientation::OutputsByInputs), (&turned, Orientation::InputsByOutputs)]
            .map(|(values, orientation)| {
                let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                let source = TensorBytes { dtype: DType::F32, bytes: &bytes };
                let mut w = QuantisedMatrix::zeroed(n, k, format).unwrap();
                w.fill(&team, 0, &Part { source, orientation, outputs: n }).unwrap();
                w
            });
        prop_assert_eq!(straight.panels(), turned.panels());
        // The range in steps, the larger half of it around zero for 4 bits; scales are rounded to 11 bits.
        let steps = match format { BlockFormat::Q8_0 => 254.0, BlockFormat::Q4_0 | BlockFormat::Q4_1 => 15.0 };
        let mut row = vec![0.0; k];
        for (output, values) in values.chunks(k).enumerate() {
            straight.row(output, &mut row);
            for (got, want) in row.chunks(BLOCK).zip(values.chunks(BLOCK)) {
                let largest = want.iter().fold(0f32, |largest, x| largest.max(x.abs()));
                let step = 2.0 * largest / steps;
                // Q4_0 has no number for the largest magnitude of the other sign: up to a whole step is lost there.
                let half = if format == BlockFormat::Q4_0 { 1.07 } else { 0.51 };
                for (got, want) in got.iter().zip(want) {
                    prop_assert!((got - want).abs() <= half * step + largest / 512.0, "{format}: {got} for {want}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_comes_through_and_stays_in_its_row() {
    let team = Team::new(1).unwrap();
    for format in BlockFormat::ALL {
        let w = matrix(format, 33, 64, 1);
        for isa in Isa::available_for_bytes() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (mut x, mut out) = (numbers(128, 5), vec![0.0; 66]);
                x[40] = bad;
                with(isa, &team, &x, &w, None, Epilogue::Store, &mut out).unwrap();
                assert!(out[..33].iter().all(|y| y.is_nan()) && out[33..].iter().all(|y| y.is_finite()));
            }
            let (x, mut out) = ([1e-38; 64], vec![7.0; 33]);
            with(isa, &team, &x, &w, None, Epilogue::Store, &mut out).unwrap();
            assert_eq!(out, [0.0; 33], "numbers without an inverse are zeros");
        }
    }
}

/// What a run leaves untested is said, not passed over.
#[allow(clippy::print_stderr, reason = "see above")]
#[test]
fn products_of_bytes_know_the_instructions_of_this_machine() {
    let all = Isa::available_for_bytes();
    assert_eq!(all.first(), Some(&Isa::best_for_bytes()));
    if !all.contains(&Isa::Avx512Vnni) {
        eprintln!("NOT TESTED: products with AVX-512 VNNI, which this machine does not have");
    }
    // Blocks whose sums are the largest and the smallest that there are.
    let (team, k) = (Team::new(1).unwrap(), 2 * BLOCK);
    for format in BlockFormat::ALL {
        for (weight, number) in [(0x7f, 1.0), (0x80, 1.0), (0xff, -1.0), (0x80, -1.0)] {
            let mut block = vec![weight; format.block_bytes()];
            block[..2].copy_from_slice(&f16::ONE.to_le_bytes());
            if format == BlockFormat::Q4_1 {
                block[2..4].copy_from_slice(&f16::NEG_ONE.to_le_bytes());
            }
            let mut w = QuantisedMatrix::zeroed(1, k, format).unwrap();
            w.fill_blocks(&team, 0, 1, &block.repeat(2)).unwrap();
            let (mut row, mut out) = (vec![0.0; k], [0.0]);
            w.row(0, &mut row);
            let want = f64::from(number) * row.iter().copied().map(f64::from).sum::<f64>();
            for &isa in &all {
                with(isa, &team, &vec![number; k], &w, None, Epilogue::Store, &mut out).unwrap();
                assert!(
                    (f64::from(out[0]) - want).abs() <= 1e-6 * want.abs().max(1.0),
                    "{isa:?} {format}: {} for {want}",
                    out[0]
                );
            }
        }
    }
}

#[test]
fn wrong_shapes_are_typed_errors() {
    let team = Team::new(2).unwrap();
    for (outputs, inputs) in [(0, 32), (3, 0), (3, 33), (usize::MAX, 32)] {
        assert!(
            QuantisedMatrix::zeroed(outputs, inputs, BlockFormat::Q4_0).is_err(),
            "[{outputs}, {inputs}]"
        );
    }
    let mut w = QuantisedMatrix::zeroed(4, 32, BlockFormat::Q8_0).unwrap();
    for (first, outputs, bytes) in [(0, 4, 135), (1, 4, 136), (usize::MAX, 1, 34)] {
        assert!(w.fill_blocks(&team, first, outputs, &vec![0; bytes]).is_err(), "{first} {outputs} {bytes}");
    }
    let mut out = [0.0; 4];
    for x in [31, 33] {
        let wrong = quantised_matmul(&team, &vec![0.0; x], &w, None, Epilogue::Store, &mut out);
        assert!(matches!(wrong, Err(KernelError::Length { .. })), "{x}");
    }
}
