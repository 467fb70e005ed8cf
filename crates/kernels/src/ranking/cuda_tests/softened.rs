//! What entries get where scores are noisy and soft, where queries see everything, and where query heads stay apart.

use super::mass::{Batch, Loaded, told_by};
use super::{LAYER, coded, gumbel, noise_at, shape};
use crate::attention::DeviceAttention;
use crate::cuda::Specialisation;
use crate::cuda::testing::device;
use crate::ranking::Score;
use crate::testing::Random;
use crate::{CodeBits, DType};

/// What stands beside each lane's entries after the queries of a step, in f64.
fn expected(batch: &Batch, score: Score) -> Vec<Vec<f32>> {
    let Specialisation { query_heads, kv_heads, groups, head_dim, .. } = batch.specialisation;
    let (ratio, lane_heads) = (query_heads / kv_heads, kv_heads / groups);
    let (window, apart) = match score {
        Score::Window { window, apart, .. } => (window, apart),
        Score::Drawn { proxies, .. } => (proxies, false),
        _ => (u32::MAX, false),
    };
    let everything = matches!(score, Score::Drawn { .. });
    let mut all = batch.sums.clone();
    for ((lanes, span), sums) in batch.sequences.iter().zip(all.chunks_mut(groups)) {
        if span.slot == u32::MAX {
            continue;
        }
        let next = span.first_position + span.queries;
        for (group, (lane, sums)) in lanes.iter().zip(sums).enumerate() {
            // Of each query head that shares a KV head, what it gives.
            let mut given = vec![vec![0.0_f64; sums.len()]; ratio];
            for (row, query) in (0..span.queries).zip(span.first_position..) {
                if row.saturating_add(window) < span.queries {
                    continue;
                }
                for head in 0..lane_heads * ratio {
                    let of_layer = group * lane_heads * ratio + head;
                    let first = ((span.first_row + row) as usize * query_heads + of_layer) * head_dim;
                    let vector = &batch.query[first..first + head_dim];
                    let logit = |entry: usize| {
                        let seen_by = if everything { next } else { query };
                        if lane.positions[entry] > seen_by || seen_by >= lane.expires_at[entry] {
                            return f64::NEG_INFINITY;
                        }
                        let key =
                            lane.layout.read_key(&lane.pages[entry / 32], entry % 32, head / ratio).unwrap();
                        let products = vector.iter().zip(&key).map(|(&q, &k)| f64::from(q) * f64::from(k));
                        let logit = f64::from(batch.scale) * products.sum::<f64>();
                        match score {
                            Score::Softened { temperature, seed } => {
                                let place = (LAYER, of_layer);
                                let noise =
                                    |seed| gumbel(noise_at(seed, place, query, lane.positions[entry]));
                                (logit + f64::from(seed.map_or(0.0, noise))) / f64::from(temperature)
                            }
                            _ => logit,
                        }
                    };
                    let logits: Vec<f64> = (0..sums.len()).map(logit).collect();
                    let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    if top == f64::NEG_INFINITY {
                        continue;
                    }
                    let total: f64 = logits.iter().map(|logit| (logit - top).exp()).sum();
                    let masses = given[head % ratio].iter_mut().zip(&logits);
                    masses.for_each(|(mass, logit)| *mass += (logit - top).exp() / total);
                }
            }
            for (entry, sum) in sums.iter_mut().enumerate() {
                let of_heads = given.iter().map(|given| given[entry]);
                let new = if apart { of_heads.fold(0.0, f64::max) } else { of_heads.sum() };
                let kept = if matches!(score, Score::Softened { .. }) { f64::from(*sum) } else { 0.0 };
                *sum = (kept + new) as f32;
            }
        }
    }
    all
}

fn shapes() -> [Specialisation; 6] {
    use DType::{Bf16, F16, F32};
    [
        shape(F32, (4, 2), 2, 8),
        shape(F32, (6, 2), 1, 80),
        shape(Bf16, (8, 2), 2, 64),
        shape(F16, (4, 2), 1, 128),
        shape(Bf16, (3, 1), 1, 40),
        coded(CodeBits::Eight, shape(F16, (8, 2), 2, 64)),
    ]
}

#[test]
fn cuda_noise_and_softness_and_other_eyes_change_what_entries_get_from_a_prompt() {
    let name = "cuda_noise_and_softness_and_other_eyes_change_what_entries_get_from_a_prompt";
    let Some(device) = device(name) else { return };
    let random = &mut Random(51);
    for specialisation in shapes() {
        let sequences = [Some((70, 9)), Some((1, 1)), None, Some((200, 40)), Some((33, 33)), Some((0, 3))];
        for score in [
            Score::Softened { temperature: 1.5, seed: Some(9) },
            Score::Softened { temperature: 0.5, seed: None },
            Score::Drawn { proxies: 16, chance: 0.3, seed: 4 },
            Score::Window { window: 7, kernel: 5, largest: false, apart: true },
        ] {
            let batch = Batch::random(random, specialisation, &sequences);
            let loaded = Loaded::new(&device, &batch);
            let ranking = loaded.ranking(&device, &batch, score);
            for (_, span) in batch.sequences.iter().filter(|(_, span)| span.slot != u32::MAX) {
                ranking.observe(&loaded.lanes, span, (LAYER, batch.scale), &loaded.qkv, None, None).unwrap();
            }
            loaded.check(&batch, &expected(&batch, score), &format!("{score:?}"));
        }
    }
}

#[test]
fn cuda_decode_steps_tell_what_noisy_and_soft_queries_give() {
    let Some(device) = device("cuda_decode_steps_tell_what_noisy_and_soft_queries_give") else { return };
    let random = &mut Random(52);
    for specialisation in shapes() {
        let lengths = [Some(70), Some(1), None, Some(900), Some(33), Some(0), Some(128)];
        let sequences = lengths.map(|length| length.map(|length| (length, 1)));
        for (temperature, seed) in [(1.5, Some(3)), (0.7, None)] {
            let score = Score::Softened { temperature, seed };
            for make in [DeviceAttention::new, DeviceAttention::slow] {
                let batch = Batch::random(random, specialisation, &sequences);
                let loaded = Loaded::new(&device, &batch);
                let attention = make(&device, &specialisation, sequences.len()).unwrap();
                let ranking = loaded.ranking(&device, &batch, score);
                told_by(&device, &attention, &loaded, &batch, &ranking);
                loaded.check(&batch, &expected(&batch, score), &format!("{score:?}"));
            }
        }
    }
}
