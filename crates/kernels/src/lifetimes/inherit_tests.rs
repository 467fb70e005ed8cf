//! Deaths that spread to the layer above, against a twin that looks positions up.

use std::collections::HashMap;

use super::DeviceInherit;
use crate::DType;
use crate::cuda::testing::device;
use crate::cuda::testing::entries::{Entry, PADDING, read, step_over, write};
use crate::cuda::{DeviceLanes, DeviceSpan, Specialisation, StepSize};
use crate::testing::Random;

const SPECIALISATION: Specialisation = Specialisation {
    weights: DType::F32,
    cache: DType::Bf16,
    codes: None,
    query_heads: 4,
    kv_heads: 2,
    groups: 1,
    head_dim: 8,
    hidden: 32,
    side_width: 0,
    statistics: 0,
};
const LAYERS: usize = 3;
const SLOTS: usize = 5;
const POSITIONS: u32 = 2000;

/// Lanes of `span`'s sequence, layer by layer: each has some of the entries below it, in any order.
fn contents(random: &mut Random, span: &DeviceSpan) -> Vec<Vec<Entry>> {
    let now = span.first_position + span.queries;
    let mut positions: Vec<u32> = (0..now).collect();
    let keep = random.pick(&[2, 4, 20]);
    let mut lanes = Vec::new();
    for _ in 0..LAYERS {
        positions.retain(|_| random.below(keep) > 0);
        (1..positions.len()).for_each(|i| positions.swap(i, random.below(i + 1)));
        let entry = |&position: &u32| {
            let mut entry = Entry::random(random, &SPECIALISATION, position);
            // Dead within the step, at its end, or some time later.
            entry.expires_at = match random.below(5) {
                0 => now - random.below(span.queries as usize) as u32,
                1 => now,
                2 => now + 1 + random.below(3) as u32,
                _ => u32::MAX,
            };
            if entry.expires_at != u32::MAX {
                entry.expires_at = entry.expires_at.max(position + 1);
                entry.killer = entry.expires_at - random.below(2) as u32;
            }
            entry
        };
        lanes.push(positions.iter().map(entry).collect());
    }
    lanes
}

/// What becomes of one sequence's lanes.
fn inherit(lanes: &mut [Vec<Entry>], now: u32, floors: (u32, u32)) {
    let mut below = HashMap::new();
    for lane in lanes {
        for entry in &mut *lane {
            if let Some(&(end, killer)) = below.get(&entry.position) {
                entry.lower(end, killer, floors);
            }
        }
        let dead = lane.iter().filter(|entry| entry.expires_at <= now);
        below = dead.map(|entry| (entry.position, (entry.expires_at, entry.killer))).collect();
    }
}

#[test]
fn cuda_deaths_spread_to_the_layers_above() {
    let Some(device) = device("cuda_deaths_spread_to_the_layers_above") else { return };
    let random = &mut Random(31);
    let kernel = DeviceInherit::new(&device, &SPECIALISATION, SLOTS, POSITIONS as usize).unwrap();
    let mut inherited = 0;
    // One table for all rounds: what an earlier step has left there says nothing.
    for round in 0..12 {
        let floors = random.pick(&[(0, 0), (4, 0), (0, 30), (7, 600)]);
        let mut spans = Vec::new();
        for slot in [3, 0, 4] {
            let queries = random.pick(&[1, 2, 33, 700]);
            let first_position = random.pick(&[0, 1, 50, 1000]);
            spans.push(DeviceSpan { slot, first_row: 0, queries, first_position });
            spans.push(PADDING);
        }
        // A sequence that is not in the step keeps its lanes.
        let idle = DeviceSpan { slot: 1, first_row: 0, queries: 9, first_position: 40 };
        let mut before = vec![Vec::new(); SLOTS * LAYERS];
        for span in spans.iter().filter(|span| span.slot != u32::MAX).chain([&idle]) {
            before[span.slot as usize * LAYERS..][..LAYERS].clone_from_slice(&contents(random, span));
        }
        let mut expected = before.clone();
        for span in spans.iter().filter(|span| span.slot != u32::MAX) {
            let lanes = &mut expected[span.slot as usize * LAYERS..][..LAYERS];
            inherit(lanes, span.first_position + span.queries, floors);
        }
        let pages = before.iter().map(|lane| lane.len().div_ceil(32)).sum::<usize>() + 1;
        let lanes =
            DeviceLanes::new(&device, &SPECIALISATION, LAYERS, SLOTS, POSITIONS as usize, pages).unwrap();
        write(random, &lanes, &before);
        let step = step_over(&device, &lanes, &spans, spans.len());
        let size = StepSize { rows: 1, spans: spans.len() };
        for layer in 0..LAYERS {
            kernel.inherit(&lanes, &step, size, layer, floors).unwrap();
        }
        let after = read(&lanes);
        for (lane, (after, expected)) in after.iter().zip(&expected).enumerate() {
            assert_eq!(after.len(), expected.len());
            for (entry, (after, expected)) in after.iter().zip(expected).enumerate() {
                assert_eq!(after, expected, "round {round}, floors {floors:?}, lane {lane}, entry {entry}");
            }
        }
        inherited += before.iter().flatten().zip(expected.iter().flatten()).filter(|(a, b)| a != b).count();
    }
    assert!(inherited > 100, "only {inherited} deaths spread");
    let shared = Specialisation { groups: 2, ..SPECIALISATION };
    assert!(DeviceInherit::new(&device, &shared, SLOTS, 10).is_err());
}
