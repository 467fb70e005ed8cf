//! Keys that stand alone, and those that their neighbours look at, against f64 and another way to solve.

use super::mass::{Batch, Loaded};
use super::{LAYER, noise_at, score_of, shape, uniform};
use crate::DType;
use crate::cuda::testing::device;
use crate::cuda::testing::entries::read;
use crate::cuda::{DeviceSpan, Specialisation};
use crate::ranking::{Score, Turns};
use crate::rope::{DeviceRope, Turning};
use crate::testing::{Lane, Random};

/// Numbers in units of their spread: f32 sketches of keys, and powers of two that are approximate.
const OFF: f64 = 2e-3;
const SCALING: f32 = 1.25;

/// What is judged, and how.
struct Rule {
    first: usize,
    last: usize,
    chunk: usize,
    columns: usize,
    blending: f64,
    seed: u64,
}

fn frequencies(specialisation: &Specialisation) -> Vec<f32> {
    (0..specialisation.head_dim / 2 - 1).map(|i| 10f32.powf(-(i as f32) / 3.0)).collect()
}

/// A key or a value of an entry.
fn row(lane: &Lane, entry: usize, key: bool) -> Vec<f64> {
    let (page, slot) = (&lane.pages[entry / 32], entry % 32);
    let row = if key { lane.layout.read_key(page, slot, 0) } else { lane.layout.read_value(page, slot, 0) };
    row.unwrap().into_iter().map(f64::from).collect()
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A key before its rotation.
fn turned_back(key: &[f64], position: u32, frequencies: &[f32]) -> Vec<f64> {
    let mut raw = key.to_vec();
    let pairs = frequencies.len();
    for (pair, frequency) in frequencies.iter().enumerate() {
        let (sine, cosine) = f64::from(position as f32 * frequency).sin_cos();
        let (low, high) = (key[pair], key[pair + pairs]);
        raw[pair] = (low * cosine + high * sine) / f64::from(SCALING);
        raw[pair + pairs] = (high * cosine - low * sine) / f64::from(SCALING);
    }
    raw
}

/// x^T (X^T X + jitter)^-1 x of every row, by Gauss and Jordan.
fn leverages(rows: &[Vec<f64>], columns: usize) -> Vec<f64> {
    let mut matrix = vec![vec![0.0; 2 * columns]; columns];
    for i in 0..columns {
        for j in 0..columns {
            matrix[i][j] =
                rows.iter().map(|row| row[i] * row[j]).sum::<f64>() + if i == j { 1e-2 } else { 0.0 };
        }
        matrix[i][columns + i] = 1.0;
    }
    for pivot in 0..columns {
        let scale = matrix[pivot][pivot];
        matrix[pivot].iter_mut().for_each(|x| *x /= scale);
        let own = matrix[pivot].clone();
        for (_, row) in matrix.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
            let factor = row[pivot];
            row.iter_mut().zip(&own).for_each(|(x, own)| *x -= factor * own);
        }
    }
    let inverse = |row: &Vec<f64>| {
        let solved: Vec<f64> = matrix.iter().map(|line| product(&line[columns..], row)).collect();
        product(&solved, row)
    };
    rows.iter().map(inverse).collect()
}

/// Numbers of all heads in units of their spread.
fn z_scores(heads: &mut [Vec<f64>]) {
    let all: Vec<f64> = heads.iter().flatten().copied().collect();
    let count = all.len() as f64;
    let mean = all.iter().sum::<f64>() / count.max(1.0);
    let squares: f64 = all.iter().map(|x| (x - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0).max(1.0)).sqrt().max(1e-6);
    heads.iter_mut().flatten().for_each(|x| *x = (*x - mean) / deviation);
}

/// The scores of a sequence's entries that the next query sees, `[g]` of numbers and scores.
fn expected(batch: &Batch, lanes: &[Lane], span: &DeviceSpan, rule: &Rule) -> Vec<Vec<(usize, f64)>> {
    let Specialisation { query_heads, kv_heads, head_dim, .. } = batch.specialisation;
    let (ratio, next) = (query_heads / kv_heads, span.first_position + span.queries);
    let frequencies = frequencies(&batch.specialisation);
    let (mut orders, mut alone, mut attended) = (Vec::new(), Vec::new(), Vec::new());
    for (head, lane) in lanes.iter().enumerate() {
        let mut order: Vec<usize> = (0..lane.positions.len())
            .filter(|&entry| lane.positions[entry] < next && next < lane.expires_at[entry])
            .collect();
        order.sort_by_key(|&entry| lane.positions[entry]);
        let begin = rule.first.min(order.len());
        let judged = order[begin..order.len().saturating_sub(rule.last).max(begin)].to_vec();
        let keys: Vec<Vec<f64>> = judged.iter().map(|&entry| row(lane, entry, true)).collect();

        let raw: Vec<Vec<f64>> = judged
            .iter()
            .zip(&keys)
            .map(|(&entry, key)| turned_back(key, lane.positions[entry], &frequencies))
            .collect();
        let mean = |column: usize| raw.iter().map(|key| key[column]).sum::<f64>() / raw.len() as f64;
        let means: Vec<f64> = (0..head_dim).map(mean).collect();
        let normal = |entry: usize| {
            let number = |seed| uniform(noise_at(seed, (LAYER, head), 0, entry as u32));
            let angle = std::f64::consts::TAU * number(!rule.seed);
            ((-2.0 * number(rule.seed).ln()).sqrt() * angle.cos()) / (rule.columns as f64).sqrt()
        };
        let sketch: Vec<f64> = (0..head_dim * rule.columns).map(normal).collect();
        let sketched = |key: &Vec<f64>| -> Vec<f64> {
            let column = |column: usize| {
                let row = |i: usize| (key[i] - means[i]) * sketch[i * rule.columns + column];
                (0..head_dim).map(row).sum()
            };
            (0..rule.columns).map(column).collect()
        };
        alone.push(leverages(&raw.iter().map(sketched).collect::<Vec<_>>(), rule.columns));

        let mut masses = vec![0.0; judged.len()];
        for member in head * ratio..(head + 1) * ratio {
            for (number, (chunk, keys)) in judged.chunks(rule.chunk).zip(keys.chunks(rule.chunk)).enumerate()
            {
                let missing = (rule.chunk - chunk.len()) as f64;
                let masses = &mut masses[number * rule.chunk..][..chunk.len()];
                masses.iter_mut().for_each(|mass| *mass += missing / rule.chunk as f64 / ratio as f64);
                for &entry in chunk {
                    let own = lane.positions[entry].checked_sub(span.first_position);
                    let logit = |key: &Vec<f64>| {
                        own.map_or(0.0, |own| {
                            let first = ((span.first_row + own) as usize * query_heads + member) * head_dim;
                            let query = batch.query[first..first + head_dim].iter().map(|&x| f64::from(x));
                            product(&query.collect::<Vec<_>>(), key)
                        })
                    };
                    let powers: Vec<f64> = keys.iter().map(|key| logit(key).exp()).collect();
                    let total = powers.iter().sum::<f64>() + missing;
                    masses.iter_mut().zip(&powers).for_each(|(mass, x)| *mass += x / total / ratio as f64);
                }
            }
        }
        for (mass, &entry) in masses.iter_mut().zip(&judged) {
            let value = row(lane, entry, false);
            *mass *= product(&value, &value).sqrt();
        }
        let pooled =
            |i: usize| masses[i.saturating_sub(1)..masses.len().min(i + 2)].iter().sum::<f64>() / 3.0;
        attended.push((0..masses.len()).map(pooled).collect::<Vec<f64>>());
        orders.push((order, begin));
    }
    z_scores(&mut alone);
    z_scores(&mut attended);
    let mut all = Vec::new();
    for ((order, begin), (alone, attended)) in orders.into_iter().zip(alone.iter().zip(&attended)) {
        let score = |(rank, entry): (usize, usize)| match rank.checked_sub(begin) {
            Some(i) if i < alone.len() => (entry, rule.blending * alone[i] + attended[i]),
            _ => (entry, f64::INFINITY),
        };
        all.push(order.into_iter().enumerate().map(score).collect());
    }
    all
}

#[test]
fn cuda_keys_are_judged_by_leverage_and_by_what_their_neighbours_look_at() {
    let name = "cuda_keys_are_judged_by_leverage_and_by_what_their_neighbours_look_at";
    let Some(device) = device(name) else { return };
    let random = &mut Random(41);
    let shapes = [
        shape(DType::F32, (4, 2), 2, 8),
        shape(DType::F16, (4, 2), 2, 64),
        shape(DType::Bf16, (3, 1), 1, 40),
        shape(DType::F32, (2, 2), 2, 80),
    ];
    let rules = [
        Rule { first: 2, last: 3, chunk: 16, columns: 6, blending: 0.7, seed: 5 },
        Rule { first: 0, last: 0, chunk: 100, columns: 33, blending: 0.0, seed: 6 },
        Rule { first: 8, last: 4, chunk: 256, columns: 2, blending: 3.0, seed: 7 },
    ];
    for specialisation in shapes {
        for rule in &rules {
            let sequences =
                [Some((150, 150)), Some((1, 1)), None, Some((90, 40)), Some((0, 3)), Some((12, 12))];
            let batch = Batch::random(random, specialisation, &sequences);
            let loaded = Loaded::new(&device, &batch);
            let Rule { first, last, chunk, columns, blending, seed } = *rule;
            let score = Score::Compact {
                first: first as u32,
                last: last as u32,
                chunk: chunk as u32,
                columns: columns as u32,
                blending: blending as f32,
                seed,
            };
            let ranking = loaded.ranking(&device, &batch, score);
            let frequencies = frequencies(&specialisation);
            let table = DeviceRope::table(&device, &specialisation, &frequencies, SCALING, 500).unwrap();
            let turning = Turning { table: &table, pairs: frequencies.len(), scaling: SCALING };
            let turns = Turns { turning, coming: None, sequence: 0 };
            let real = || batch.sequences.iter().filter(|(_, span)| span.slot != u32::MAX);
            for (_, span) in real() {
                let (lanes, qkv) = (&loaded.lanes, &loaded.qkv);
                ranking.observe(lanes, span, (LAYER, batch.scale), qkv, None, Some(turns)).unwrap();
            }
            let found = read(&loaded.lanes);
            for (lanes, span) in real() {
                for (head, expected) in expected(&batch, lanes, span, rule).iter().enumerate() {
                    let lane = &found[(span.slot as usize * 2 + LAYER) * lanes.len() + head];
                    for &(entry, expected) in expected {
                        let found = f64::from(score_of(&lane[entry]));
                        let same =
                            found == expected || (found - expected).abs() <= OFF * (1.0 + expected.abs());
                        assert!(
                            same,
                            "{specialisation:?} chunks of {chunk}, {columns} columns, slot {}, head {head}, entry {entry}: \
                             {found}, not {expected}",
                            span.slot
                        );
                    }
                }
            }
        }
    }
}
