use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;
use crate::page::CodeBits::{Eight, Four};

/// Of the largest number: what float32 leaves open (the golden file's README).
const TOLERANCE: f32 = 1e-5;

struct Golden<'a>(SafeTensors<'a>);

impl Golden<'_> {
    fn words(&self, name: &str) -> Vec<[u8; 4]> {
        let data = self.0.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|word| word.try_into().unwrap()).collect()
    }

    fn numbers(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_le_bytes).collect()
    }

    /// Groups of 32: of `key` the tokens of a channel, of `value` the channels of a token. `all` is `[64, 32]`.
    fn groups<T: Copy>(&self, kind: &str, all: &[T]) -> Vec<Vec<T>> {
        match kind {
            "value" => all.chunks_exact(32).map(<[T]>::to_vec).collect(),
            _ => (0..64).map(|i| (0..32).map(|t| all[(i / 32 * 32 + t) * 32 + i % 32]).collect()).collect(),
        }
    }

    /// Codes `[64, 32]`, unpacked from words along the tokens or the channels.
    fn codes(&self, kind: &str, bits: CodeBits) -> Vec<u8> {
        let words = self.words(&format!("{kind}.b{}.code", bits.bits()));
        let (per_word, mask) = (32 / bits.bits(), u32::from(bits.largest()));
        let code = |token: usize, channel: usize| {
            let (word, j) = match kind {
                "value" => (token * (32 / per_word) + channel / per_word, channel % per_word),
                _ => (token / per_word * 32 + channel, token % per_word),
            };
            (u32::from_le_bytes(words[word]) >> (bits.bits() * j) & mask) as u8
        };
        (0..64 * 32).map(|i| code(i / 32, i % 32)).collect()
    }
}

#[test]
fn steps_and_codes_are_the_originals() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/kivi/kivi.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let golden = Golden(SafeTensors::deserialize(&bytes).unwrap());
    for (kind, source) in [("key", "k"), ("value", "v")] {
        let numbers = golden.groups(kind, &golden.numbers(source));
        for bits in [Eight, Four] {
            let name = |what: &str| format!("{kind}.b{}.{what}", bits.bits());
            let (least, step) = (golden.numbers(&name("min")), golden.numbers(&name("scale")));
            let codes = golden.groups(kind, &golden.codes(kind, bits));
            let given_back = golden.groups(kind, &golden.numbers(&name("dequant")));
            assert_eq!((numbers.len(), least.len(), step.len()), (64, 64, 64));
            for (i, numbers) in numbers.iter().enumerate() {
                let steps = Steps::of(numbers, bits);
                assert_eq!(steps.least, least[i], "{kind} {bits:?} group {i}");
                assert!((steps.step - step[i]).abs() <= TOLERANCE * step[i], "{kind} {bits:?} group {i}");
                for (j, &number) in numbers.iter().enumerate() {
                    let code = steps.code(number, bits);
                    assert_eq!(code, codes[i][j], "{kind} {bits:?} group {i} number {j}");
                    let off = steps.number(code) - given_back[i][j];
                    assert!(off.abs() <= TOLERANCE * 4.0, "{kind} {bits:?} group {i} number {j}: {off}");
                }
            }
        }
    }
}

/// Groups of any magnitude that f16 reaches, with large means, and constant ones.
fn group() -> impl Strategy<Value = Vec<f32>> {
    let number = prop::num::f32::NORMAL.prop_map(|x| x.fract());
    let spread = prop_oneof![Just(0.0f32), (-24i32..15).prop_map(|e| (e as f32).exp2())];
    let mean = prop_oneof![Just(0.0f32), -30_000.0f32..30_000.0, -1.0f32..1.0];
    (prop::collection::vec(number, 1..=32), spread, mean)
        .prop_map(|(numbers, spread, mean)| numbers.iter().map(|x| mean + x * spread).collect())
}

proptest! {
    #[test]
    fn no_number_moves_by_more_than_half_a_step(numbers in group()) {
        for bits in [Eight, Four] {
            let steps = Steps::stored(&numbers, bits);
            // Both are f16.
            prop_assert_eq!(f16::from_f32(steps.step).to_f32(), steps.step);
            prop_assert_eq!(f16::from_f32(steps.least).to_f32(), steps.least);
            let least = numbers.iter().copied().fold(f32::INFINITY, f32::min);
            let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let largest = least.abs().max(most.abs());
            prop_assert!(steps.least <= least);
            // No wider than the range, what f16 takes from its ends, and the last bit of f16.
            let widest = (most - least + largest / 1024.0) / f32::from(bits.largest());
            prop_assert!(steps.step <= widest * (1.0 + 1.0 / 512.0) + 1.2e-7, "{} {widest}", steps.step);
            for &number in &numbers {
                let code = steps.code(number, bits);
                let off = f64::from(steps.number(code)) - f64::from(number);
                // Beside half a step what f32 sums of such numbers round by.
                let allowed = f64::from(steps.step) / 2.0 + f64::from(largest) * 2.5e-7;
                prop_assert!(off.abs() <= allowed, "{bits:?} {number}: off by {off}, {allowed} allowed");
            }
        }
    }

    #[test]
    fn a_line_gives_back_what_was_set_and_keeps_the_others(codes in prop::collection::vec(any::<u8>(), 32), place in 0..32usize) {
        for bits in [Eight, Four] {
            let code = |i: usize| codes[i] & bits.largest();
            let mut line = vec![0xa5; line_bytes(bits)];
            (0..32).for_each(|i| set(&mut line, i, code(i), bits));
            prop_assert!((0..32).all(|i| get(&line, i, bits) == code(i)));
            set(&mut line, place, !code(place) & bits.largest(), bits);
            prop_assert!((0..32).all(|i| (get(&line, i, bits) == code(i)) == (i != place)));
        }
    }
}

#[test]
fn a_constant_group_is_its_number_and_what_is_no_number_does_not_panic() {
    for bits in [Eight, Four] {
        for number in [0.0, 1.5, -65504.0, 65504.0] {
            let steps = Steps::stored(&[number; 32], bits);
            assert_eq!((steps.step, steps.number(steps.code(number, bits))), (0.0, number));
        }
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38] {
            let numbers = [1.0, odd, -2.0];
            let steps = Steps::stored(&numbers, bits);
            numbers.iter().for_each(|&x| assert!(steps.code(x, bits) <= bits.largest()));
        }
        assert_eq!(Steps::stored(&[], bits).code(1.0, bits), 0);
    }
}
