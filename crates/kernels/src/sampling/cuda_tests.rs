//! The rules of the engine's sampler, on the device.

use super::{DeviceSampler, SlotSampling};
use crate::cuda::testing::device;
use crate::cuda::{Device, DeviceBuffer};
use crate::testing::Random;

const HOT: SlotSampling =
    SlotSampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };

/// Tokens of rows of logits, each of the slot of its number.
fn sample(device: &Device, sampler: &DeviceSampler, rows: &[Vec<f32>], randoms: &[f32]) -> Vec<u32> {
    let slots: Vec<u32> = (0..rows.len() as u32).collect();
    sample_slots(device, sampler, &slots, rows, randoms)
}

fn sample_slots(
    device: &Device,
    sampler: &DeviceSampler,
    slots: &[u32],
    rows: &[Vec<f32>],
    randoms: &[f32],
) -> Vec<u32> {
    let slots = DeviceBuffer::copy_of(device, "a test", slots).unwrap();
    // What lies between rows is nobody's logit.
    let stride = rows[0].len().next_multiple_of(8);
    let padding = vec![f32::NAN; stride - rows[0].len()];
    let padded: Vec<f32> = rows.iter().flat_map(|row| row.iter().chain(&padding)).copied().collect();
    let logits = DeviceBuffer::copy_of(device, "a test", &padded).unwrap();
    let randoms = DeviceBuffer::copy_of(device, "a test", randoms).unwrap();
    let tokens = DeviceBuffer::copy_of(device, "a test", &vec![12345u32; rows.len()]).unwrap();
    sampler.sample(rows.len(), &slots, &logits, stride, &randoms, &tokens).unwrap();
    tokens.read().unwrap()
}

fn greedy(logits: &[f32]) -> u32 {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, logits[0]), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    best.0 as u32
}

/// Tokens left by the filters with their weights, in the order of their numbers.
fn survivors(sampling: &SlotSampling, logits: &[f32]) -> Vec<(u32, f64)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| ((f64::from(x) - f64::from(largest)) / f64::from(sampling.temperature)).exp();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if sampling.top_k > 0 {
        order.truncate(sampling.top_k as usize);
    }
    if sampling.top_p < 1.0 {
        let total: f64 = order.iter().map(|&i| weight(logits[i])).sum();
        let mut sum = 0.0;
        let wanted = f64::from(sampling.top_p) * total;
        let kept = order
            .iter()
            .take_while(|&&i| {
                let open = sum < wanted;
                sum += weight(logits[i]);
                open
            })
            .count();
        order.truncate(kept.max(1));
    }
    let mut left: Vec<_> = order.into_iter().map(|i| (i as u32, weight(logits[i]))).collect();
    left.retain(|&(_, weight)| weight >= f64::from(sampling.min_p));
    left.sort_unstable_by_key(|&(token, _)| token);
    left
}

#[test]
fn cuda_greedy_takes_the_first_of_equal_largest() {
    let Some(device) = device("cuda_greedy_takes_the_first_of_equal_largest") else { return };
    let random = &mut Random(21);
    for vocabulary in [1, 3, 4, 31, 2047, 2048, 2049, 4096, 50_257, 128_256, 262_144] {
        for count in [1, 5] {
            let sampler = DeviceSampler::new(&device, count, vocabulary).unwrap();
            let rows: Vec<Vec<f32>> = (0..count)
                .map(|i| match i {
                    1 => vec![0.5; vocabulary],
                    2 => (0..vocabulary).map(|i| if i % 3 == 0 { -0.0 } else { 0.0 }).collect(),
                    // Few distinct values, so that the largest is there often.
                    3 => (0..vocabulary).map(|_| random.below(50) as f32 - 100.0).collect(),
                    _ => random.row(vocabulary),
                })
                .collect();
            let expected: Vec<u32> = rows.iter().map(|row| greedy(row)).collect();
            assert_eq!(sample(&device, &sampler, &rows, &vec![0.5; count]), expected, "v = {vocabulary}");
            // Its scratch is clean again.
            assert_eq!(sample(&device, &sampler, &rows, &vec![0.5; count]), expected, "v = {vocabulary}");
        }
    }
}

#[test]
fn cuda_logits_that_are_not_finite_are_named() {
    let Some(device) = device("cuda_logits_that_are_not_finite_are_named") else { return };
    let random = &mut Random(22);
    let vocabulary = 10_001;
    let sampler = DeviceSampler::new(&device, 4, vocabulary).unwrap();
    sampler.set(1, HOT).unwrap();
    for (at, bad) in [(0, f32::NAN), (9_999, f32::INFINITY), (10_000, f32::NEG_INFINITY), (4000, f32::NAN)] {
        let mut rows: Vec<_> = (0..3).map(|_| random.row(vocabulary)).collect();
        for row in &mut rows[..2] {
            row[at] = bad;
            row[10_000] = f32::NAN;
        }
        rows[0][10_000] = bad;
        let tokens = sample_slots(&device, &sampler, &[0, 1, 3], &rows, &[0.1; 3]);
        assert_eq!(tokens, [0x8000_0000 | at as u32, 0x8000_0000 | at as u32, greedy(&rows[2])]);
    }
    let rows: Vec<_> = (0..2).map(|_| random.row(vocabulary)).collect();
    let tokens = sample_slots(&device, &sampler, &[u32::MAX, 0], &rows, &[0.1; 2]);
    assert_eq!(tokens, [12345, greedy(&rows[1])], "padding was sampled");
}

#[test]
fn cuda_each_filter_leaves_exactly_its_tokens() {
    let Some(device) = device("cuda_each_filter_leaves_exactly_its_tokens") else { return };
    let logits = vec![0.0f32, 2.0, 1.0, 1.5, -9.0];
    let cases = [
        (SlotSampling { top_k: 2, ..HOT }, [false, true, false, true, false]),
        (SlotSampling { top_p: 0.5, ..HOT }, [false, true, false, true, false]),
        (SlotSampling { top_p: 0.1, ..HOT }, [false, true, false, false, false]),
        (SlotSampling { min_p: 0.3, ..HOT }, [false, true, true, true, false]),
        (SlotSampling { min_p: 1.0, ..HOT }, [false, true, false, false, false]),
    ];
    let draws = 400;
    for (sampling, expected) in cases {
        let sampler = DeviceSampler::new(&device, draws, 5).unwrap();
        (0..draws).for_each(|slot| sampler.set(slot, sampling).unwrap());
        let randoms: Vec<f32> = (0..draws).map(|i| i as f32 / draws as f32).collect();
        let mut found = [false; 5];
        for token in sample(&device, &sampler, &vec![logits.clone(); draws], &randoms) {
            found[token as usize] = true;
        }
        assert_eq!(found, expected, "{sampling:?}");
    }
}

#[test]
fn cuda_a_draw_is_where_its_random_number_falls() {
    let Some(device) = device("cuda_a_draw_is_where_its_random_number_falls") else { return };
    let random = &mut Random(23);
    let count = 24;
    for vocabulary in [7, 2048, 5003, 128_256] {
        let sampler = DeviceSampler::new(&device, count, vocabulary).unwrap();
        let samplings: Vec<_> = (0..count)
            .map(|_| SlotSampling {
                temperature: random.pick(&[0.05, 0.7, 1.0, 3.0]),
                top_k: random.pick(&[0, 1, 5, 50, 3000]),
                top_p: random.pick(&[1.0, 0.95, 0.5, 0.01]),
                min_p: random.pick(&[0.0, 0.0, 0.05]),
                repetition_penalty: 1.0,
            })
            .collect();
        let rows: Vec<Vec<f32>> = (0..count)
            .map(|i| match i % 4 {
                0 => vec![1.25; vocabulary],
                // Many equal ones around every threshold.
                1 => (0..vocabulary).map(|_| random.below(40) as f32 / 8.0).collect(),
                _ => (0..vocabulary).map(|_| (0..6).map(|_| random.real()).sum::<f32>() * 2.5).collect(),
            })
            .collect();
        let randoms: Vec<f32> = (0..count).map(|_| (random.real() + 1.0) / 2.0).collect();
        for (slot, &sampling) in samplings.iter().enumerate() {
            sampler.set(slot, sampling).unwrap();
        }
        let tokens = sample(&device, &sampler, &rows, &randoms);
        assert_eq!(tokens, sample(&device, &sampler, &rows, &randoms), "equal inputs, other tokens");
        for (i, &token) in tokens.iter().enumerate() {
            // The sum that top-p wants is met to rounding only: either neighbour of it is right.
            let near = [0.0, 1e-5, -1e-5].map(|shift: f32| {
                let top_p = if samplings[i].top_p < 1.0 { samplings[i].top_p * (1.0 + shift) } else { 1.0 };
                survivors(&SlotSampling { top_p, ..samplings[i] }, &rows[i])
            });
            let fits = near.iter().any(|left| {
                let total: f64 = left.iter().map(|&(_, weight)| weight).sum();
                let before: f64 =
                    left.iter().filter(|(other, _)| *other < token).map(|(_, weight)| weight).sum();
                let own = left.iter().find(|(other, _)| *other == token).map(|&(_, weight)| weight);
                let place = f64::from(randoms[i]) * total;
                own.is_some_and(|own| before - 1e-5 * total <= place && place <= before + own + 1e-5 * total)
            });
            assert!(fits, "v = {vocabulary}, row {i}, {:?}, {}: {token}", samplings[i], randoms[i]);
        }
    }
}

#[test]
fn cuda_frequencies_follow_the_softmax() {
    let Some(device) = device("cuda_frequencies_follow_the_softmax") else { return };
    let random = &mut Random(24);
    let logits = vec![1.0f32, 0.0, -1.0, 0.5];
    let draws = 20_000;
    let sampler = DeviceSampler::new(&device, draws, 4).unwrap();
    let sampling = SlotSampling { temperature: 0.7, ..HOT };
    (0..draws).for_each(|slot| sampler.set(slot, sampling).unwrap());
    let randoms: Vec<f32> = (0..draws).map(|_| (random.real() + 1.0) / 2.0).collect();
    let mut shares = [0.0; 4];
    for token in sample(&device, &sampler, &vec![logits.clone(); draws], &randoms) {
        shares[token as usize] += 1.0 / draws as f64;
    }
    let left = survivors(&sampling, &logits);
    let total: f64 = left.iter().map(|&(_, weight)| weight).sum();
    for ((_, weight), share) in left.iter().zip(shares) {
        assert!((share - weight / total).abs() < 0.015, "{shares:?}");
    }
}

#[test]
fn cuda_a_penalty_applies_once_per_token_and_remembers_its_own() {
    let Some(device) = device("cuda_a_penalty_applies_once_per_token_and_remembers_its_own") else { return };
    let sampler = DeviceSampler::new(&device, 4, 3).unwrap();
    let sampling = SlotSampling { repetition_penalty: 2.0, ..SlotSampling::default() };
    let next =
        |slot: u32, logits: [f32; 3]| sample_slots(&device, &sampler, &[slot], &[logits.to_vec()], &[0.0])[0];
    (0..4).for_each(|slot| sampler.set(slot, sampling).unwrap());
    sampler.seen(0, &[0, 0]).unwrap();
    assert_eq!(next(0, [4.0, 3.0, 2.5]), 1);
    // Now 1 is in the text too.
    assert_eq!(next(0, [4.0, 3.0, 2.5]), 2);
    sampler.seen(1, &[0]).unwrap();
    assert_eq!(next(1, [4.0, 1.5, 1.0]), 0);
    sampler.seen(2, &[0]).unwrap();
    assert_eq!(next(2, [-1.0, -1.5, -3.0]), 1);
    assert_eq!(next(3, [4.0, 3.0, 2.5]), 0);
    sampler.set(3, sampling).unwrap();
    assert_eq!(next(3, [4.0, 3.0, 2.5]), 0, "a new sequence has seen nothing");
    assert!(sampler.seen(0, &[3]).is_err());
    assert!(sampler.seen(4, &[0]).is_err());
    assert!(sampler.set(4, sampling).is_err());
}

/// Whichever way a token is drawn, it is remembered, and the scratch of the ways is clean again.
#[test]
fn cuda_drawn_tokens_are_remembered() {
    let Some(device) = device("cuda_drawn_tokens_are_remembered") else { return };
    let base = SlotSampling { repetition_penalty: 1e6, ..HOT };
    let samplings = [
        SlotSampling { top_k: 2, ..base },
        SlotSampling { min_p: 0.5, ..base },
        SlotSampling { top_p: 0.5, ..base },
        base,
        SlotSampling { temperature: 0.0, ..base },
        SlotSampling { temperature: 1e-20, ..base },
    ];
    let (count, vocabulary) = (samplings.len(), 9000);
    let sampler = DeviceSampler::new(&device, count, vocabulary).unwrap();
    for (slot, &sampling) in samplings.iter().enumerate() {
        sampler.set(slot, sampling).unwrap();
    }
    let mut logits = vec![0.0; vocabulary];
    let expected = [8999, 4000, 17, 2048];
    expected.iter().enumerate().for_each(|(i, &token)| logits[token] = 200.0 - 40.0 * i as f32);
    let slots: Vec<u32> = (0..count as u32).flat_map(|slot| [u32::MAX, slot]).collect();
    for token in expected {
        let tokens =
            sample_slots(&device, &sampler, &slots, &vec![logits.clone(); 2 * count], &vec![0.5; 2 * count]);
        for pair in tokens.chunks(2) {
            assert_eq!(pair, [12345, token as u32]);
        }
    }
}
