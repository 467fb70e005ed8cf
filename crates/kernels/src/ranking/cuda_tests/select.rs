//! Scores of keys, windows that are blended, and who stays.

use std::cmp::Ordering;

use super::{LAYERS, noise_at, score_of, set_score, settings, shape, uniform};
use crate::DType;
use crate::cuda::testing::device;
use crate::cuda::testing::entries::{Entry, PADDING, bytes_of, floats_of, read, step_over, write};
use crate::cuda::{Device, DeviceBuffer, DeviceLanes, DeviceSpan, Specialisation, StepSize};
use crate::lifetimes::Floors;
use crate::ranking::{DeviceRanking, RankingSettings, RankingSize, Score};
use crate::testing::Random;

const SUMS: Score = Score::Attention { factor: 1.0, per_query: false };
/// Products of f32 in another order.
const ROUNDING: f64 = 1e-5;

/// Lanes of several sequences, and the spans of a step.
pub(super) struct Case {
    specialisation: Specialisation,
    slots: usize,
    pub(super) contents: Vec<Vec<Entry>>,
    spans: Vec<DeviceSpan>,
    /// `[spans][LAYERS]`
    pub(super) kept: Vec<u32>,
}

impl Case {
    pub(super) fn random(random: &mut Random, specialisation: Specialisation, lengths: &[usize]) -> Self {
        let (slots, per_slot) = (lengths.len(), LAYERS * specialisation.groups);
        let mut contents = Vec::new();
        let mut spans = vec![PADDING];
        for (slot, &length) in lengths.iter().enumerate() {
            let queries = 1 + random.below(3) as u32;
            let next = (length as u32 + 5).max(queries);
            spans.push(DeviceSpan {
                slot: slot as u32,
                first_row: 0,
                queries,
                first_position: next - queries,
            });
            for _ in 0..per_slot {
                let own = if random.below(3) == 0 { random.below(length + 1) } else { length };
                let mut positions: Vec<u32> = (0..next).collect();
                (1..positions.len()).for_each(|i| positions.swap(i, random.below(i + 1)));
                let lane = positions[..own].iter().map(|&position| {
                    let mut entry = Entry::random(random, &specialisation, position);
                    let numbers = random
                        .row(2 * specialisation.head_dim * specialisation.kv_heads / specialisation.groups);
                    let rows = bytes_of(specialisation.cache, &numbers);
                    entry.rows[..rows.len()].copy_from_slice(&rows);
                    // Some are over already.
                    if random.below(10) == 0 {
                        entry.expires_at = position + 1 + random.below((next - position) as usize) as u32;
                        entry.killer = entry.expires_at;
                    }
                    set_score(&mut entry, score(random));
                    entry
                });
                contents.push(lane.collect());
            }
        }
        let kept = |_| match random.below(6) {
            0 => u32::MAX,
            1 => 1,
            2 => 2000,
            _ => 1 + random.below(300) as u32,
        };
        let kept = (0..spans.len() * LAYERS).map(kept).collect();
        Self { specialisation, slots, contents, spans, kept }
    }

    /// The lanes after a choice.
    pub(super) fn prune(
        &self,
        device: &Device,
        random: &mut Random,
        settings: RankingSettings,
    ) -> Vec<Vec<Entry>> {
        let groups = self.specialisation.groups;
        let kept: Vec<u32> = self.kept.iter().flat_map(|&kept| std::iter::repeat_n(kept, groups)).collect();
        self.prune_each(device, random, settings, &kept)
    }

    /// The same with a budget for each lane, `[spans][LAYERS][groups]`.
    fn prune_each(
        &self,
        device: &Device,
        random: &mut Random,
        settings: RankingSettings,
        kept: &[u32],
    ) -> Vec<Vec<Entry>> {
        let pages: usize = self.contents.iter().map(|lane| lane.len().div_ceil(32)).sum();
        let longest = self.contents.iter().map(Vec::len).max().unwrap_or(0);
        let lanes =
            DeviceLanes::new(device, &self.specialisation, LAYERS, self.slots, longest + 32, pages + 1)
                .unwrap();
        write(random, &lanes, &self.contents);
        let step = step_over(device, &lanes, &self.spans, self.spans.len());
        let positions = longest + 99;
        let size = RankingSize { rows: 3, spans: self.spans.len(), layers: LAYERS, positions };
        let ranking = DeviceRanking::new(device, &self.specialisation, settings, size).unwrap();
        let kept = DeviceBuffer::copy_of(device, "budgets", kept).unwrap();
        let size = StepSize { rows: 1, spans: self.spans.len() };
        ranking.prune(&lanes, &step, size, &kept, positions).unwrap();
        read(&lanes)
    }

    /// Calls `take` with the next query and the budget of every layer that is pruned, and its lanes.
    pub(super) fn each_layer(
        &self,
        contents: &mut [Vec<Entry>],
        mut take: impl FnMut(usize, u32, u32, &mut [Vec<Entry>]),
    ) {
        let groups = self.specialisation.groups;
        for (span, kept) in self.spans.iter().zip(self.kept.chunks(LAYERS)) {
            if span.slot == u32::MAX {
                continue;
            }
            for (layer, &kept) in kept.iter().enumerate().filter(|(_, kept)| **kept != u32::MAX) {
                let first = (span.slot as usize * LAYERS + layer) * groups;
                take(layer, span.first_position + span.queries, kept, &mut contents[first..first + groups]);
            }
        }
    }
}

/// All kinds of numbers, and many equals.
fn score(random: &mut Random) -> f32 {
    match random.below(20) {
        0 => f32::NAN,
        1 => f32::INFINITY,
        2 => f32::NEG_INFINITY,
        3 => -0.0,
        4 => 0.0,
        5..9 => random.below(3) as f32 - 1.0,
        9 => f32::MAX,
        10 => 1e-42,
        _ => random.real(),
    }
}

pub(super) fn live(entry: &Entry, next: u32) -> bool {
    entry.position < next && next < entry.expires_at
}

/// An entry's score once floors have been seen to, its position, its head and its place.
pub(super) type Candidate = (f32, u32, usize, usize);

/// By worth: NaN below all, of equals the later position, then the higher head.
pub(super) fn better(a: &Candidate, b: &Candidate) -> Ordering {
    let worth = a.0.partial_cmp(&b.0).unwrap_or_else(|| b.0.is_nan().cmp(&a.0.is_nan()));
    worth.then((a.1, a.2).cmp(&(b.1, b.2))).reverse()
}

/// Who stays: the slow twin.
pub(super) fn choose(lanes: &mut [Vec<Entry>], next: u32, kept: usize, settings: &RankingSettings) {
    let per_query = matches!(settings.score, Score::Attention { per_query: true, .. });
    let counted = settings.counted;
    let mut stay: Vec<Candidate> = Vec::new();
    let mut others: Vec<Candidate> = Vec::new();
    for (head, lane) in lanes.iter().enumerate() {
        let candidate = |(place, entry): (usize, &Entry)| {
            let position = entry.position;
            let mut score = score_of(entry);
            if per_query {
                score /= (next - position).max(1) as f32;
            }
            if score > f32::MAX {
                score = f32::MAX;
            }
            if position < counted.sinks || position.saturating_add(counted.recent) >= next {
                score = f32::INFINITY;
            }
            (score, position, head, place)
        };
        let mut all: Vec<Candidate> =
            lane.iter().enumerate().filter(|(_, entry)| live(entry, next)).map(candidate).collect();
        all.sort_by(better);
        let own = settings.share.map_or(kept, |share| (kept as f64 * share) as usize).min(all.len());
        others.extend(all.drain(own..));
        stay.extend(all);
    }
    if settings.share.is_some() {
        others.sort_by(better);
        others.drain(..(lanes.len() * kept).saturating_sub(stay.len()).min(others.len()));
    }
    let floors = (settings.floors.sinks, settings.floors.recent);
    for (_, _, head, place) in others {
        lanes[head][place].lower(next, next - 1, floors);
    }
}

#[test]
fn cuda_the_best_stay_as_in_a_sorted_list() {
    let Some(device) = device("cuda_the_best_stay_as_in_a_sorted_list") else { return };
    let random = &mut Random(21);
    for specialisation in [
        shape(DType::F32, (4, 4), 4, 8),
        shape(DType::Bf16, (4, 4), 1, 8),
        shape(DType::F16, (8, 2), 2, 64),
        shape(DType::F16, (2, 1), 1, 16),
    ] {
        for round in 0..12 {
            let case = Case::random(random, specialisation, &[0, 1, 33, 300, 70, 1500, 31]);
            let floors = |random: &mut Random| Floors {
                sinks: random.pick(&[0, 0, 4, 40]),
                recent: random.pick(&[0, 1, 20, u32::MAX]),
            };
            let settings = RankingSettings {
                score: Score::Attention { factor: 1.0, per_query: round % 4 == 3 },
                counted: floors(random),
                floors: if round % 3 == 0 { floors(random) } else { Floors::default() },
                share: random.pick(&[None, Some(0.0), Some(0.2), Some(1.0), Some(0.55)]),
            };
            let mut expected = case.contents.clone();
            case.each_layer(&mut expected, |_, next, kept, lanes| {
                choose(lanes, next, kept as usize, &settings)
            });
            let found = case.prune(&device, random, settings);
            for (lane, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!(found == expected, "{specialisation:?} {settings:?} lane {lane}: {:?}", case.kept);
            }
        }
    }
}

#[test]
fn cuda_one_too_many_is_the_least() {
    let Some(device) = device("cuda_one_too_many_is_the_least") else { return };
    let random = &mut Random(22);
    let specialisation = shape(DType::Bf16, (4, 2), 2, 64);
    for share in [None, Some(0.3)] {
        let mut case = Case::random(random, specialisation, &[700, 40, 2]);
        let mut kept = vec![u32::MAX; case.kept.len()];
        for (budgets, span) in kept.chunks_mut(LAYERS).zip(&case.spans).skip(1) {
            for (layer, kept) in budgets.iter_mut().enumerate() {
                let lane = &case.contents[(span.slot as usize * LAYERS + layer) * specialisation.groups];
                let next = span.first_position + span.queries;
                *kept =
                    (lane.iter().filter(|entry| live(entry, next)).count() as u32).saturating_sub(1).max(1);
            }
        }
        case.kept = kept;
        let settings = RankingSettings { share, ..settings(SUMS) };
        let mut expected = case.contents.clone();
        case.each_layer(&mut expected, |_, next, kept, lanes| choose(lanes, next, kept as usize, &settings));
        assert!(expected != case.contents && case.prune(&device, random, settings) == expected, "{share:?}");
    }
}

#[test]
fn cuda_lanes_keep_each_its_own_budget() {
    let Some(device) = device("cuda_lanes_keep_each_its_own_budget") else { return };
    let random = &mut Random(23);
    let specialisation = shape(DType::F32, (8, 4), 4, 8);
    let case = Case::random(random, specialisation, &[700, 40, 2, 90]);
    let lanes = LAYERS * specialisation.groups;
    let kept: Vec<u32> =
        (0..case.spans.len() * lanes).map(|_| random.pick(&[u32::MAX, 0, 1, 30, 200, 900])).collect();
    let settings = RankingSettings { counted: Floors { sinks: 2, recent: 3 }, ..settings(SUMS) };
    let mut expected = case.contents.clone();
    for (span, kept) in case.spans.iter().zip(kept.chunks(lanes)).skip(1) {
        let next = span.first_position + span.queries;
        let of_slot = &mut expected[span.slot as usize * lanes..][..lanes];
        for (lane, &kept) in of_slot.chunks_mut(1).zip(kept).filter(|(_, kept)| **kept != u32::MAX) {
            choose(lane, next, kept as usize, &settings);
        }
    }
    assert!(expected != case.contents && case.prune_each(&device, random, settings, &kept) == expected);
}

/// The key of an entry of a lane of one head.
fn key(specialisation: &Specialisation, entry: &Entry) -> Vec<f64> {
    let bytes = specialisation.head_dim * specialisation.cache.bytes();
    floats_of(specialisation.cache, &entry.rows[..bytes])
}

fn length(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// What keys say, in f64.
fn scores_of_keys(
    specialisation: &Specialisation,
    (score, layer, head): (Score, usize, usize),
    lane: &[&Entry],
) -> Vec<f64> {
    let keys: Vec<Vec<f64>> = lane.iter().map(|entry| key(specialisation, entry)).collect();
    match score {
        Score::KeyNorm => keys.iter().map(|key| -length(key)).collect(),
        Score::KeyDifference => {
            let mut mean = vec![0.0; specialisation.head_dim];
            for key in &keys {
                let share = length(key).max(1e-12) * keys.len() as f64;
                mean.iter_mut().zip(key).for_each(|(mean, x)| *mean += x / share);
            }
            let norm = length(&mean).max(1e-8);
            let cosine = |key: &Vec<f64>| {
                key.iter().zip(&mean).map(|(a, b)| a * b).sum::<f64>() / (length(key).max(1e-8) * norm)
            };
            keys.iter().map(|key| -cosine(key)).collect()
        }
        Score::Noise { seed } => {
            let score =
                |entry: &&Entry| f64::from(uniform(noise_at(seed, (layer, head), 0, entry.position)) as f32);
            lane.iter().map(score).collect()
        }
        _ => panic!("says nothing of keys"),
    }
}

#[test]
fn cuda_keys_say_what_they_say_on_the_processor() {
    let Some(device) = device("cuda_keys_say_what_they_say_on_the_processor") else { return };
    let random = &mut Random(23);
    for specialisation in [
        shape(DType::F32, (4, 4), 4, 8),
        shape(DType::Bf16, (4, 2), 2, 80),
        shape(DType::F16, (8, 2), 2, 256),
        shape(DType::Bf16, (1, 1), 1, 64),
    ] {
        for score in [Score::KeyNorm, Score::KeyDifference, Score::Noise { seed: 77 }] {
            let mut case = Case::random(random, specialisation, &[0, 1, 33, 300, 1500]);
            case.kept.iter_mut().for_each(|kept| *kept = 1 << 20);
            let (found, mut before) = (case.prune(&device, random, settings(score)), case.contents.clone());
            let mut first = 0;
            case.each_layer(&mut before, |layer, next, _, lanes| {
                for (head, lane) in lanes.iter().enumerate() {
                    let seen: Vec<&Entry> = lane.iter().filter(|entry| live(entry, next)).collect();
                    let expected = scores_of_keys(&specialisation, (score, layer, head), &seen);
                    let found = found[first + head].iter().filter(|entry| live(entry, next)).map(score_of);
                    for (found, expected) in found.zip(&expected) {
                        let off = (f64::from(found) - expected).abs();
                        assert!(
                            off <= ROUNDING * (1.0 + expected.abs()),
                            "{score:?}: {found}, not {expected}"
                        );
                    }
                    assert_eq!(expected.len(), seen.len());
                }
                first += specialisation.groups;
            });
        }
    }
}

#[test]
fn cuda_windows_are_blended_in_the_order_of_positions() {
    let Some(device) = device("cuda_windows_are_blended_in_the_order_of_positions") else { return };
    let random = &mut Random(24);
    let specialisation = shape(DType::F32, (6, 2), 2, 8);
    for (window, kernel, largest) in
        [(8, 5, false), (8, 5, true), (1, 1, false), (40, 7, true), (3, 999, false)]
    {
        let mut case = Case::random(random, specialisation, &[0, 1, 33, 300, 1500, 7]);
        case.kept.iter_mut().for_each(|kept| *kept = 1 << 20);
        let found =
            case.prune(&device, random, settings(Score::Window { window, kernel, largest, apart: false }));
        let (mut before, mut first) = (case.contents.clone(), 0);
        case.each_layer(&mut before, |_, next, _, lanes| {
            for (head, lane) in lanes.iter().enumerate() {
                let mut order: Vec<usize> = (0..lane.len()).filter(|&i| live(&lane[i], next)).collect();
                order.sort_by_key(|&i| lane[i].position);
                let means: Vec<f32> =
                    order.iter().map(|&i| score_of(&lane[i]) / 3.0 / window as f32).collect();
                let judged = &means[..means.len().saturating_sub(window as usize)];
                for (rank, &i) in order.iter().enumerate() {
                    let reach = kernel as usize / 2;
                    let around = || &judged[rank.saturating_sub(reach)..judged.len().min(rank + reach + 1)];
                    let expected = match rank < judged.len() {
                        false => f32::INFINITY,
                        true if largest => around()
                            .iter()
                            .fold(f32::NEG_INFINITY, |a, &b| if b > a || b.is_nan() { b } else { a }),
                        true => around().iter().sum::<f32>() / kernel as f32,
                    };
                    let found = score_of(&found[first + head][i]);
                    let same = found == expected
                        || found.is_nan() && expected.is_nan()
                        || (found - expected).abs() <= 1e-5 * expected.abs();
                    assert!(same, "{window} {kernel} {largest}: {found}, not {expected}");
                }
            }
            first += specialisation.groups;
        });
    }
}

/// How far an entry's channels spread in units of the partition that follows, as a softmax over its partition: f64.
fn spreads(this: &[Vec<f64>], next: &[Vec<f64>]) -> Vec<f64> {
    let width = this[0].len();
    let channel = |column: usize| next.iter().map(move |row| row[column]);
    let low: Vec<f64> = (0..width).map(|column| channel(column).fold(f64::INFINITY, f64::min)).collect();
    let high: Vec<f64> = (0..width).map(|column| channel(column).fold(f64::NEG_INFINITY, f64::max)).collect();
    let deviation = |row: &Vec<f64>| {
        let scaled: Vec<f64> = (0..width).map(|i| (row[i] - low[i]) / (high[i] - low[i])).collect();
        let mean = scaled.iter().sum::<f64>() / width as f64;
        (scaled.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (width - 1) as f64).sqrt()
    };
    let weights: Vec<f64> = this.iter().map(|row| deviation(row).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

#[test]
fn cuda_entries_are_judged_by_the_partition_that_follows() {
    let Some(device) = device("cuda_entries_are_judged_by_the_partition_that_follows") else { return };
    let random = &mut Random(25);
    let (sinks, lag) = (3, 16);
    for specialisation in [shape(DType::F32, (4, 2), 2, 8), shape(DType::Bf16, (8, 2), 2, 80)] {
        let mut case = Case::random(random, specialisation, &[0, 1, 20, 60, 300, 1500]);
        case.kept.iter_mut().for_each(|kept| *kept = 1 << 20);
        let mut score =
            |across| case.prune(&device, random, settings(Score::Lag { sinks: sinks as u32, lag, across }));
        let (across, ranked, lag) = (score(true), score(false), lag as usize);
        let (mut before, mut first) = (case.contents.clone(), 0);
        case.each_layer(&mut before, |_, next, _, lanes| {
            for (head, lane) in lanes.iter().enumerate() {
                let mut order: Vec<usize> = (0..lane.len()).filter(|&i| live(&lane[i], next)).collect();
                order.sort_by_key(|&i| lane[i].position);
                let bytes = specialisation.head_dim * specialisation.cache.bytes();
                let row = |&i: &usize, which: usize| {
                    floats_of(specialisation.cache, &lane[i].rows[which * bytes..][..bytes])
                };
                let found = |lanes: &[Vec<Entry>], rank: usize| score_of(&lanes[first + head][order[rank]]);
                let judged = order.len() - sinks.min(order.len());
                for rank in 0..order.len() {
                    let (partition, at) =
                        (rank.saturating_sub(sinks) / lag, rank.saturating_sub(sinks) % lag);
                    let begin = sinks + partition * lag;
                    let [one, other] = [&across, &ranked].map(|lanes| found(lanes, rank));
                    if rank < sinks {
                        assert_eq!([one, other], [f32::INFINITY; 2]);
                    } else if judged / lag < 2 {
                        assert_eq!([one, other], [(rank - sinks) as f32 / judged as f32; 2]);
                    } else if partition + 1 >= judged / lag {
                        assert_eq!([one, other], [1.0; 2]);
                    } else {
                        let part = |which, begin: usize| -> Vec<Vec<f64>> {
                            order[begin..begin + lag].iter().map(|i| row(i, which)).collect()
                        };
                        let of = |which| spreads(&part(which, begin), &part(which, begin + lag))[at];
                        let expected = (of(0) + of(1)) / 2.0;
                        let off = (f64::from(one) - expected).abs();
                        assert!(off <= ROUNDING, "{specialisation:?} rank {rank}: {one}, not {expected}");
                        // Of equals the later one is higher.
                        let scores: Vec<f32> = (0..lag).map(|i| found(&across, begin + i)).collect();
                        let below = (0..lag).filter(|&i| scores[i] < one || scores[i] == one && i < at);
                        assert_eq!(other, below.count() as f32 / lag as f32);
                    }
                }
            }
            first += specialisation.groups;
        });
    }
}
