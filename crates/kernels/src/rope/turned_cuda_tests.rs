//! Keys that are turned once more in the pages, against angles in f64.

use super::{DeviceAnchor, DeviceRenumber, DeviceRope, Turning};
use crate::DType;
use crate::cuda::testing::device;
use crate::cuda::testing::entries::{Entry, bytes_of, floats_of, read, write};
use crate::cuda::{Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Specialisation};
use crate::testing::Random;

const LAYERS: usize = 2;
const SLOTS: usize = 3;
const SCALING: f32 = 1.25;
const PAIRS: usize = 6;

/// What turning may add beside the rounding to a format: f32 products, and angles whose f32 cosines are multiplied twice.
fn tolerance(cache: DType) -> f64 {
    match cache {
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        DType::Bf16 => 2e-2,
    }
}

fn shapes() -> [Specialisation; 3] {
    let shape = |cache, kv_heads, groups| Specialisation {
        weights: cache,
        cache,
        codes: None,
        query_heads: 4,
        kv_heads,
        groups,
        head_dim: 16,
        hidden: 64,
        side_width: 0,
        statistics: 1,
    };
    [shape(DType::F32, 2, 2), shape(DType::F16, 4, 1), shape(DType::Bf16, 2, 1)]
}

fn frequencies() -> Vec<f32> {
    (0..PAIRS).map(|i| 100f32.powf(-(i as f32) / PAIRS as f32)).collect()
}

fn table(device: &Device, specialisation: &Specialisation) -> DeviceBuffer<[f32; 2]> {
    DeviceRope::table(device, specialisation, &frequencies(), SCALING, 400).unwrap()
}

/// Entries at the positions before `tokens`, in any order, with numbers for keys and values.
fn entries(random: &mut Random, specialisation: &Specialisation, tokens: u32) -> Vec<Entry> {
    let mut positions: Vec<u32> = (0..tokens).collect();
    (1..positions.len()).for_each(|i| positions.swap(i, random.below(i + 1)));
    let entry = |&position: &u32| {
        let mut entry = Entry::random(random, specialisation, position);
        let count = 2 * specialisation.head_dim * specialisation.kv_heads / specialisation.groups;
        let rows = bytes_of(specialisation.cache, &random.row(count));
        entry.rows[..rows.len()].copy_from_slice(&rows);
        entry
    };
    positions.iter().map(entry).collect()
}

/// Checks that an entry's keys are those of another turned on by some positions, and that all else is the same.
fn check(specialisation: &Specialisation, before: &Entry, found: &Entry, by: i64) {
    let (d, bytes) = (specialisation.head_dim, specialisation.head_dim * specialisation.cache.bytes());
    let mut same = before.clone();
    for head in 0..specialisation.kv_heads / specialisation.groups {
        let place = 2 * head * bytes..(2 * head + 1) * bytes;
        let [key, turned] =
            [before, found].map(|entry| floats_of(specialisation.cache, &entry.rows[place.clone()]));
        let mut expected = key.clone();
        for (pair, frequency) in frequencies().iter().enumerate() {
            // The f32 product of position and frequency, as the table has it.
            let angle = f64::from(by.unsigned_abs() as f32 * frequency);
            let (sine, cosine) = (angle * by.signum() as f64).sin_cos();
            expected[pair] = key[pair] * cosine - key[pair + PAIRS] * sine;
            expected[pair + PAIRS] = key[pair + PAIRS] * cosine + key[pair] * sine;
        }
        for column in 0..d {
            let off = (turned[column] - expected[column]).abs();
            let position = before.position;
            assert!(
                off <= tolerance(specialisation.cache),
                "position {position} by {by}, column {column}: {off}"
            );
        }
        same.rows[place.clone()].copy_from_slice(&found.rows[place]);
    }
    assert_eq!(*found, same, "only keys are turned");
}

#[test]
fn cuda_what_stays_is_turned_to_consecutive_positions() {
    let Some(device) = device("cuda_what_stays_is_turned_to_consecutive_positions") else { return };
    let random = &mut Random(61);
    for specialisation in shapes() {
        let per_slot = LAYERS * specialisation.groups;
        for tokens in [1u32, 33, 300] {
            let lanes = DeviceLanes::new(&device, &specialisation, LAYERS, SLOTS, 320, 320).unwrap();
            let contents: Vec<Vec<Entry>> = (0..SLOTS * per_slot)
                .map(|_| {
                    let mut lane = entries(random, &specialisation, tokens);
                    for entry in &mut lane {
                        if random.below(3) > 0 {
                            entry.expires_at = tokens;
                            entry.killer = tokens - 1;
                        }
                    }
                    lane
                })
                .collect();
            write(random, &lanes, &contents);
            let table = table(&device, &specialisation);
            let turning = Turning { table: &table, pairs: PAIRS, scaling: SCALING };
            let renumber = DeviceRenumber::new(&device, &specialisation, 400).unwrap();
            renumber.renumber(&lanes, 1, tokens, turning).unwrap();
            let found = read(&lanes);
            for (number, (found, before)) in found.iter().zip(&contents).enumerate() {
                if number / per_slot != 1 {
                    assert_eq!(found, before, "another sequence");
                    continue;
                }
                let stays = |entry: &&Entry| entry.expires_at > tokens;
                for (found, entry) in found.iter().zip(before) {
                    let rank = before.iter().filter(stays).filter(|other| other.position < entry.position);
                    let by = if stays(&entry) { rank.count() as i64 - i64::from(entry.position) } else { 0 };
                    check(&specialisation, entry, found, by);
                }
            }
        }
    }
}

#[test]
fn cuda_sinks_are_turned_on_from_what_they_were_born_as() {
    let Some(device) = device("cuda_sinks_are_turned_on_from_what_they_were_born_as") else { return };
    let random = &mut Random(62);
    let (sinks, first_behind) = (4u32, 10u32);
    for specialisation in shapes() {
        let per_slot = LAYERS * specialisation.groups;
        let lanes = DeviceLanes::new(&device, &specialisation, LAYERS, SLOTS, 64, 64).unwrap();
        let mut contents: Vec<Vec<Entry>> =
            (0..SLOTS * per_slot).map(|_| entries(random, &specialisation, 37)).collect();
        // The third sequence begins with the text of the first.
        for lane in 0..per_slot {
            contents[2 * per_slot + lane] = contents[lane].clone();
        }
        write(random, &lanes, &contents);
        let step = DeviceStep::new(&device, LAYERS, specialisation.groups, 8, 4).unwrap();
        let table = table(&device, &specialisation);
        let turning = Turning { table: &table, pairs: PAIRS, scaling: SCALING };
        let anchor =
            DeviceAnchor::new(&device, &specialisation, (LAYERS, SLOTS), (sinks, first_behind)).unwrap();
        let mut aheads = [0i64; SLOTS];
        let rounds: [&[(u32, u32, u32)]; 5] = [
            &[(0, 6, 4), (1, 9, 1)],
            &[(0, first_behind, 1), (u32::MAX, 0, 1), (1, first_behind, 1)],
            &[(0, first_behind + 1, 1)],
            &[(2, first_behind + 7, 1)],
            &[(1, first_behind + 100, 1), (0, first_behind + 2, 1)],
        ];
        for (number, round) in rounds.iter().enumerate() {
            if number == 3 {
                anchor.copy_slot(0, 2).unwrap();
            }
            let spans: Vec<DeviceSpan> = round
                .iter()
                .map(|&(slot, first_position, queries)| DeviceSpan {
                    slot,
                    first_row: 0,
                    queries,
                    first_position,
                })
                .collect();
            step.spans.write(0, &spans).unwrap();
            anchor.anchor(&lanes, &step, spans.len(), turning).unwrap();
            for &(slot, query, _) in round.iter().filter(|span| span.0 != u32::MAX) {
                aheads[slot as usize] = i64::from((query + 1).saturating_sub(first_behind));
            }
            let found = read(&lanes);
            for (lane, (found, before)) in found.iter().zip(&contents).enumerate() {
                for (found, entry) in found.iter().zip(before) {
                    let by = if entry.position < sinks { aheads[lane / per_slot] } else { 0 };
                    check(&specialisation, entry, found, by);
                }
            }
        }
    }
}
