//! The table of angles, and what an append leaves in the pages, against the CPU's operations.

use super::{Birth, Births, DeviceAppend, DeviceRope, RopeTable, StepGates, rotate};
use crate::cuda::rounding::{assert_close, bytes_of, last_bits, numbers_of, plain, rounded, upload};
use crate::cuda::testing::device;
use crate::cuda::{Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Row, Specialisation, StepSize};
use crate::lifetimes::{CacheOverflow, DeviceLifetimes, Floors, Lifetime, StepStatus};
use crate::testing::Random;
use crate::{CodeBits, DType, Elements, PAGE_ENTRIES, PageLayout, Team, rms_norm_heads};

/// Two roundings of a cos or sin that a different double decides otherwise.
const ANGLE_TOLERANCE: f64 = 2e-7;

#[test]
fn cuda_angles_are_those_of_the_cpu() {
    let Some(device) = device("cuda_angles_are_those_of_the_cpu") else { return };
    let inv_freq: Vec<f32> = (0..64).map(|i| 500_000f32.powf(-(i as f32) / 64.0)).collect();
    let (positions, scaling) = (70_000u32, 1.25);
    let table = DeviceRope::table(&device, &plain(DType::Bf16, 32), &inv_freq, scaling, positions as usize);
    let table = table.unwrap().read().unwrap();
    let some: Vec<u32> = (0..100).chain(69_900..positions).collect();
    let want = RopeTable { inv_freq, attention_scaling: scaling }.angles(&some);
    for (i, &position) in some.iter().enumerate() {
        for pair in 0..64 {
            let [cos, sin] = table[position as usize * 64 + pair];
            for (got, want) in [(cos, want.cos[i * 64 + pair]), (sin, want.sin[i * 64 + pair])] {
                assert!(f64::from((got - want).abs()) <= ANGLE_TOLERANCE, "{position} {pair}: {got} {want}");
            }
        }
    }
}

/// What an entry's births leave it, of which its gate says whether it is `refused`.
fn end_at_birth(births: &Births, position: u32, lane: usize, in_prompt: bool, refused: bool) -> (u32, u32) {
    let mut life = Lifetime::ENDLESS;
    let rules = births.rules[..births.count as usize].iter();
    for rule in rules.filter(|rule| rule.lanes[lane / 32] >> (lane % 32) & 1 == 1) {
        let wished = if rule.kind == Birth::WINDOW || rule.kind == Birth::WINDOW_BEHIND && !in_prompt {
            (position >= rule.sinks).then(|| position.saturating_add(rule.recent))
        } else if rule.kind == Birth::WINDOW_BEHIND {
            None
        } else if rule.kind == Birth::GATE {
            refused.then_some(position + 1)
        } else {
            let share = |position: u32| (f64::from(position) * rule.keep).floor();
            (share(position + 1) <= share(position)).then_some(position + 1)
        };
        let Some(wished) = wished else { continue };
        let floors = Floors { sinks: rule.floor_sinks, recent: rule.floor_recent };
        life.lower(position, wished, wished, floors);
    }
    (life.expires_at, life.killer)
}

struct Case {
    specialisation: Specialisation,
    pairs: usize,
    norms: bool,
    gate_heads: Option<usize>,
    /// Whether gates score entries at birth instead of voting.
    at_birth: bool,
    births: Births,
}

/// Codes and steps that the host makes of a value `[d]`.
fn stored_value(spec: &Specialisation, value: &[f32]) -> [Vec<u8>; 2] {
    let layout = PageLayout::new(1, value.len(), vec![], spec.format()).unwrap();
    let mut page = layout.zeroed_page().unwrap();
    layout.write_key_value(&mut page, 0, value, value).unwrap();
    let (Some(block), Elements::F16(all)) = (layout.coded_values(), page.elements()) else {
        panic!("{} has no codes", spec.format())
    };
    let all = &all[layout.value_range(0)];
    [block.row_of_codes(all, 0), block.row_of_steps(all, 0)]
}

#[test]
fn cuda_appended_entries_are_those_of_the_cpu() {
    let Some(device) = device("cuda_appended_entries_are_those_of_the_cpu") else { return };
    let base = Specialisation {
        weights: DType::Bf16,
        cache: DType::Bf16,
        codes: None,
        query_heads: 8,
        kv_heads: 4,
        groups: 1,
        head_dim: 64,
        hidden: 512,
        side_width: 8,
        statistics: 0,
    };
    let lanes = Birth::ALL;
    let window = Birth { kind: 0, sinks: 4, recent: 10, floor_sinks: 2, floor_recent: 3, lanes, keep: 0.0 };
    let share = Birth { kind: 1, sinks: 0, recent: 0, floor_sinks: 1, floor_recent: 6, lanes, keep: 0.37 };
    let some = Birth { lanes: [0b1010, 0, 0, 0], ..window };
    let behind = Birth { kind: Birth::WINDOW_BEHIND, sinks: 1, recent: 7, ..some };
    let gate = Birth { kind: Birth::GATE, floor_sinks: 2, floor_recent: 9, ..window };
    let endless = Birth { recent: u32::MAX, ..window };
    let births = |rules: &[Birth]| {
        let mut births = Births { count: rules.len() as u32, ..Births::default() };
        births.rules[..rules.len()].copy_from_slice(rules);
        births
    };
    let cases = [
        Case {
            specialisation: base,
            pairs: 32,
            norms: false,
            gate_heads: Some(1),
            at_birth: false,
            births: births(&[window]),
        },
        Case {
            specialisation: Specialisation {
                groups: 4,
                weights: DType::F32,
                cache: DType::F32,
                statistics: 1,
                ..base
            },
            pairs: 32,
            norms: true,
            gate_heads: Some(4),
            at_birth: false,
            births: births(&[some, share, behind]),
        },
        Case {
            specialisation: Specialisation { cache: DType::F32, head_dim: 128, groups: 4, ..base },
            pairs: 64,
            norms: true,
            gate_heads: Some(1),
            at_birth: false,
            births: births(&[share, endless, window, share]),
        },
        Case {
            specialisation: Specialisation { weights: DType::F16, cache: DType::F16, side_width: 0, ..base },
            pairs: 0,
            norms: false,
            gate_heads: None,
            at_birth: false,
            births: Births::default(),
        },
        Case {
            specialisation: Specialisation { weights: DType::F32, cache: DType::F16, head_dim: 256, ..base },
            pairs: 48,
            norms: true,
            gate_heads: Some(1),
            at_birth: false,
            births: births(&[window]),
        },
        Case {
            specialisation: Specialisation { cache: DType::F16, codes: Some(CodeBits::Four), ..base },
            pairs: 32,
            norms: true,
            gate_heads: Some(1),
            at_birth: false,
            births: births(&[window]),
        },
        Case {
            specialisation: Specialisation {
                weights: DType::F32,
                cache: DType::F16,
                codes: Some(CodeBits::Eight),
                head_dim: 80,
                groups: 4,
                ..base
            },
            pairs: 40,
            norms: false,
            gate_heads: None,
            at_birth: false,
            births: births(&[share]),
        },
        Case {
            specialisation: Specialisation { head_dim: 8, kv_heads: 2, query_heads: 6, groups: 2, ..base },
            pairs: 3,
            norms: false,
            gate_heads: None,
            at_birth: false,
            births: births(&[share]),
        },
        Case {
            specialisation: Specialisation { weights: DType::F16, head_dim: 36, groups: 4, ..base },
            pairs: 18,
            norms: true,
            gate_heads: Some(4),
            at_birth: false,
            births: births(&[window]),
        },
        Case {
            specialisation: Specialisation { head_dim: 520, ..base },
            pairs: 260,
            norms: true,
            gate_heads: Some(1),
            at_birth: false,
            births: births(&[share]),
        },
        Case {
            specialisation: Specialisation { side_width: 0, ..base },
            pairs: 32,
            norms: false,
            gate_heads: Some(1),
            at_birth: true,
            births: births(&[gate]),
        },
        Case {
            specialisation: Specialisation { side_width: 0, groups: 4, ..base },
            pairs: 32,
            norms: false,
            gate_heads: Some(4),
            at_birth: true,
            births: births(&[Birth { lanes: [0b0111, 0, 0, 0], floor_recent: 0, ..gate }, window]),
        },
    ];
    for (number, case) in cases.iter().enumerate() {
        check(&device, number, case);
    }
}

fn check(device: &Device, number: usize, case: &Case) {
    let mut random = Random(100 + number as u64);
    let (spec, team) = (&case.specialisation, Team::new(1).unwrap());
    let (h, g, d, r) = (spec.query_heads, spec.kv_heads, spec.head_dim, spec.side_width);
    let (layers, layer, slots) = (2, 1, 4);
    // Sequences in slots 2, 0 and 3, with padding between; slot 1 is nobody's.
    let queries = [(2u32, 1usize), (0, 40), (3, 3)];
    let lanes = DeviceLanes::new(device, spec, layers, slots, 256, 64).unwrap();
    let mut before = vec![(0, Vec::new()); slots * layers * spec.groups];
    for &(slot, count) in &queries {
        for group in 0..spec.groups {
            let lane = (slot as usize * layers + layer) * spec.groups + group;
            let length = random.below(70) + count;
            let pages: Vec<u8> =
                (0..length.div_ceil(PAGE_ENTRIES) * spec.page_bytes()).map(|_| random.next() as u8).collect();
            lanes.write_lane(lane, length as u32, &pages).unwrap();
            before[lane] = (length, pages);
        }
    }
    let mut rows = Vec::new();
    let padding = Row { slot: u32::MAX, token: 0, position: 0, back: 0 };
    for &(slot, count) in &queries {
        let first = random.below(900) as u32;
        for i in 0..count as u32 {
            rows.push(Row { slot, token: 0, position: first + i, back: count as u32 - i });
        }
        // All but the first and the last token of a sequence lie in its prompt.
        let last = rows.len() - 1;
        rows[last + 1 - count..last].iter_mut().skip(1).for_each(|row| row.back |= Row::IN_PROMPT);
        rows.push(padding);
    }
    rows[0].position = 1;
    let step = DeviceStep::new(device, layers, spec.groups, 64, 8).unwrap();
    step.rows.write(0, &rows).unwrap();
    let width = (h + 2 * g) * d;
    let qkv = rounded(&random.row(rows.len() * width), spec.weights);
    let device_qkv = upload(device, &qkv, spec.weights);
    let (query_norm, key_norm) = (random.row(d), random.row(d));
    let copy = |values: &[f32]| DeviceBuffer::copy_of(device, "a test", values).unwrap();
    let (device_query_norm, device_key_norm) = (copy(&query_norm), copy(&key_norm));
    let table = RopeTable {
        inv_freq: (0..case.pairs).map(|i| 10_000f32.powf(-(i as f32) / 32.0)).collect(),
        attention_scaling: 1.0,
    };
    let angles = DeviceRope::table(device, spec, &table.inv_freq, 1.0, 1000).unwrap();
    // A token is turned by its place among what was kept of its text.
    let back = [0, 0, 1, 40].map(|most| random.below(most + 1) as u32);
    let shifts = DeviceBuffer::copy_of(device, "a test", &back).unwrap();
    let heads = case.gate_heads.unwrap_or(1);
    let gates = random.row(rows.len() * if case.at_birth { heads } else { 2 * heads * r });
    let bias: Vec<f32> = (0..heads).map(|head| 0.2 - 0.3 * head as f32).collect();
    let (device_gates, device_bias) = (copy(&gates), copy(&bias));
    let step_gates = match case.gate_heads {
        None => StepGates::None,
        Some(_) if case.at_birth => StepGates::Birth { numbers: &device_gates, bias: &device_bias, heads },
        Some(_) => StepGates::Votes { numbers: &device_gates, heads },
    };
    DeviceAppend::new(device, spec)
        .unwrap()
        .append(
            &lanes,
            &step,
            StepSize { rows: rows.len(), spans: 6 },
            layer,
            &device_qkv,
            case.norms.then_some(&device_query_norm),
            case.norms.then_some(&device_key_norm),
            1e-6,
            Some((&angles, case.pairs)),
            step_gates,
            &case.births,
            Some(&shifts),
        )
        .unwrap();

    let mut turned = qkv.clone();
    if case.norms {
        rms_norm_heads(&team, &mut turned, width, 0, h, &query_norm, 1e-6).unwrap();
        rms_norm_heads(&team, &mut turned, width, h * d, g, &key_norm, 1e-6).unwrap();
    }
    let shift = |row: &Row| back.get(row.slot as usize).copied().unwrap_or(0);
    let positions: Vec<u32> = rows.iter().map(|row| row.position.saturating_sub(shift(row))).collect();
    rotate(&team, &mut turned, width, 0, h + g, d, &table.angles(&positions)).unwrap();
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let got = numbers_of(&device_qkv.read().unwrap(), spec.weights);
    for (i, row) in rows.iter().enumerate() {
        let (got, before) = (&got[i * width..][..width], &qkv[i * width..][..width]);
        let what = format!("case {number}: queries of row {i}");
        let want = if row.slot == u32::MAX { before } else { &turned[i * width..] };
        assert_close(&what, &got[..h * d], &wide(&want[..h * d]), last_bits(spec.weights));
        assert_eq!(got[h * d..], before[h * d..], "case {number}: keys and values of row {i}");
    }

    let (element, lane_heads) = (spec.cache.bytes(), g / spec.groups);
    let [(key_row, of_key), (value_row, of_value)] = spec.rows();
    let head_rows = PAGE_ENTRIES * (key_row + value_row);
    let head_steps = |head: usize| lane_heads * head_rows + 4 * PAGE_ENTRIES * (of_key + of_value) * head;
    let tail = spec.page_bytes() - (3 + spec.statistics) * 4 * PAGE_ENTRIES;
    for (lane, (length, pages)) in before.iter().enumerate() {
        let (got_length, mut got) = lanes.read_lane(lane).unwrap();
        assert_eq!(got_length as usize, *length);
        let group = lane % spec.groups;
        let mine = lane / spec.groups % layers == layer;
        let slot = (lane / spec.groups / layers) as u32;
        for (i, row) in rows.iter().enumerate().filter(|(_, row)| mine && row.slot == slot) {
            let what = format!("case {number}: lane {lane}, row {i}");
            let entry = length - (row.back & !Row::IN_PROMPT) as usize;
            let (page, entry) = (entry / PAGE_ENTRIES * spec.page_bytes(), entry % PAGE_ENTRIES);
            let key_codes: Vec<[Vec<u8>; 2]> = (0..lane_heads)
                .map(|head| {
                    let (rows, steps) = (page + head * head_rows, page + head_steps(head));
                    let codes = got[rows + entry * key_row..][..key_row].to_vec();
                    [codes, got[steps + entry * 4 * of_key..][..4 * of_key].to_vec()]
                })
                .collect();
            // Checks a stretch of a page, and puts back what was there, so that in the end nothing else differs.
            let mut meet = |at: usize, want: &[u8], tolerance: Option<f64>| {
                let range = page + at..page + at + want.len();
                match tolerance {
                    None => assert_eq!(&got[range.clone()], want, "{what}, byte {at}"),
                    Some(tolerance) => assert_close(
                        &what,
                        &numbers_of(&got[range.clone()], spec.cache),
                        &wide(&numbers_of(want, spec.cache)),
                        tolerance,
                    ),
                }
                got[range.clone()].copy_from_slice(&pages[range]);
            };
            for head in 0..lane_heads {
                let from = i * width + (h + group * lane_heads + head) * d;
                if spec.codes.is_some() {
                    let [codes, steps] = &key_codes[head];
                    for (k, (&code, &want)) in codes.iter().zip(&turned[from..from + d]).enumerate() {
                        let of_group = numbers_of(&steps[k / 64 * 4..][..4], DType::F16);
                        let off = f32::from(code) * of_group[0] + of_group[1] - want;
                        assert!(off.abs() <= 0.501 * of_group[0], "{what}, key {k}: off by {off}");
                    }
                    let [value_codes, value_steps] = stored_value(spec, &qkv[from + g * d..][..d]);
                    meet(head * head_rows + entry * key_row, codes, None);
                    meet(head_steps(head) + entry * 4 * of_key, steps, None);
                    let values = head * head_rows + PAGE_ENTRIES * key_row;
                    meet(values + entry * value_row, &value_codes, None);
                    let steps = head_steps(head) + 4 * (PAGE_ENTRIES * of_key + entry * of_value);
                    meet(steps, &value_steps, None);
                    continue;
                }
                let at = (head * 2 * PAGE_ENTRIES + entry) * d * element;
                meet(at, &bytes_of(&turned[from..from + d], spec.cache), Some(last_bits(spec.cache)));
                let at = at + PAGE_ENTRIES * d * element;
                meet(at, &bytes_of(&qkv[from + g * d..][..d], spec.cache), None);
            }
            if case.gate_heads.is_some() && !case.at_birth {
                let from = (i * 2 * heads + heads + group % heads) * r;
                let at = PAGE_ENTRIES * spec.key_value_bytes() + entry * r * element;
                meet(at, &bytes_of(&gates[from..from + r], spec.cache), None);
            }
            let head = group % heads;
            let refused = case.at_birth && gates[i * heads + head] + bias[head] <= 0.0;
            let in_prompt = row.back & Row::IN_PROMPT != 0;
            let (expires, killer) = end_at_birth(&case.births, row.position, group, in_prompt, refused);
            for (array, value) in [row.position, expires, killer].into_iter().enumerate() {
                meet(tail + (array * PAGE_ENTRIES + entry) * 4, &value.to_le_bytes(), None);
            }
            for statistic in 0..spec.statistics {
                meet(tail + ((3 + statistic) * PAGE_ENTRIES + entry) * 4, &0f32.to_le_bytes(), None);
            }
        }
        assert!(got == *pages, "case {number}: lane {lane}: something else was written");
    }
}

/// The twin that the device is held against, where the answers are plain.
#[test]
fn ends_at_birth_are_those_of_windows_and_shares_and_gates() {
    let lanes = [0b11, 1, 0, 0];
    let never = Birth { kind: 0, sinks: 4, recent: 10, floor_sinks: 0, floor_recent: 0, lanes, keep: 0.0 };
    let births = |rules: &[Birth]| {
        let mut births = Births { count: rules.len() as u32, ..Births::default() };
        births.rules[..rules.len()].copy_from_slice(rules);
        births
    };
    assert_eq!(end_at_birth(&Births::default(), 7, 1, false, false), (u32::MAX, u32::MAX));
    let window = births(&[never]);
    assert_eq!(end_at_birth(&window, 3, 1, false, false), (u32::MAX, u32::MAX));
    assert_eq!(end_at_birth(&window, 4, 1, false, false), (14, 14));
    // A floor puts the end off, not the decision.
    assert_eq!(end_at_birth(&births(&[Birth { floor_recent: 30, ..never }]), 4, 1, false, false), (34, 14));
    assert_eq!(
        end_at_birth(&births(&[Birth { floor_sinks: 5, ..never }]), 4, 1, false, false),
        (u32::MAX, u32::MAX)
    );
    let share = Birth { kind: 1, keep: 0.25, ..never };
    let kept: Vec<u32> =
        (0..12).filter(|&i| end_at_birth(&births(&[share]), i, 1, false, false).0 == u32::MAX).collect();
    assert_eq!(kept, [3, 7, 11]);
    // The lowest end counts.
    assert_eq!(end_at_birth(&births(&[never, share]), 8, 1, false, false), (9, 9));
    assert_eq!(end_at_birth(&births(&[never, share]), 11, 1, false, false), (21, 21));
    // Other lanes have nothing to do with it.
    assert_eq!(
        [32, 2, 33].map(|lane| end_at_birth(&window, 4, lane, false, false).0),
        [14, u32::MAX, u32::MAX]
    );
    // A window behind prompts leaves prompts alone.
    let behind = births(&[Birth { kind: Birth::WINDOW_BEHIND, ..never }]);
    assert_eq!(
        [false, true].map(|in_prompt| end_at_birth(&behind, 4, 1, in_prompt, false).0),
        [14, u32::MAX]
    );
    // A gate's refusal is put off by floors, and is none of other lanes' business.
    let gate = Birth { kind: Birth::GATE, floor_recent: 6, ..never };
    let of = |position, lane, refused| end_at_birth(&births(&[gate]), position, lane, false, refused);
    assert_eq!(of(9, 0, false), (u32::MAX, u32::MAX));
    assert_eq!(of(9, 0, true), (15, 10));
    assert_eq!(of(9, 2, true), (u32::MAX, u32::MAX));
    // As the kernel file lays them out.
    assert_eq!((size_of::<Birth>(), size_of::<Births>()), (48, 200));
}

#[test]
fn cuda_the_first_number_that_the_pages_cannot_hold_is_told_until_its_slot_is_cleared() {
    let test = "cuda_the_first_number_that_the_pages_cannot_hold_is_told_until_its_slot_is_cleared";
    let Some(device) = device(test) else { return };
    let spec = Specialisation {
        weights: DType::F32,
        cache: DType::F16,
        codes: None,
        query_heads: 2,
        kv_heads: 2,
        groups: 2,
        head_dim: 8,
        hidden: 16,
        side_width: 4,
        statistics: 0,
    };
    // Three sequences of four tokens; a row is 16 numbers of queries, 16 of keys, 16 of values.
    let (layers, slots, tokens, width) = (2, 3, 4, 48);
    let lanes = DeviceLanes::new(&device, &spec, layers, slots, 64, 64).unwrap();
    let step = DeviceStep::new(&device, layers, spec.groups, slots * tokens, slots).unwrap();
    let size = StepSize { rows: slots * tokens, spans: slots };
    let spans: Vec<DeviceSpan> = (0..slots as u32)
        .map(|slot| DeviceSpan { slot, first_row: 4 * slot, queries: 4, first_position: 10 * slot })
        .collect();
    let rows: Vec<Row> = (0..12)
        .map(|row| Row { slot: row / 4, token: 0, position: 10 * (row / 4) + row % 4, back: 4 - row % 4 })
        .collect();
    step.rows.write(0, &rows).unwrap();
    step.spans.write(0, &spans).unwrap();
    let (append, lifetimes) =
        (DeviceAppend::new(&device, &spec).unwrap(), DeviceLifetimes::new(&device, &spec).unwrap());
    let status = DeviceBuffer::<u32>::zeroed(&device, "a test", StepStatus::words(slots)).unwrap();
    // Numbers of layer 0, then of layer 1: row, place in the row, number. Gates are `[rows, 2 r]`.
    let told = |numbers: [&[(usize, usize, f32)]; 2], gate: (usize, f32)| -> Vec<Option<CacheOverflow>> {
        lifetimes.grow(&lanes, &step, size).unwrap();
        device.synchronize().unwrap();
        for (layer, numbers) in numbers.iter().enumerate() {
            let mut qkv = vec![1.0; slots * tokens * width];
            numbers.iter().for_each(|&(row, place, number)| qkv[row * width + place] = number);
            let mut gates = vec![1.0; slots * tokens * 8];
            gates[gate.0] = gate.1;
            let (qkv, gates) = (
                upload(&device, &qkv, DType::F32),
                DeviceBuffer::copy_of(&device, "a test", &gates).unwrap(),
            );
            let births = Births::default();
            append
                .append(
                    &lanes,
                    &step,
                    size,
                    layer,
                    &qkv,
                    None,
                    None,
                    1e-6,
                    None,
                    StepGates::Votes { numbers: &gates, heads: 1 },
                    &births,
                    None,
                )
                .unwrap();
        }
        lifetimes.reclaim(&lanes, &step, size, None, &status).unwrap();
        let words = status.read().unwrap();
        (0..slots).map(|slot| StepStatus::new(&words).span(slot).overflow).collect()
    };
    let overflow = |what, position, layer, number| Some(CacheOverflow { what, position, layer, number });
    // Queries stay in f32, and what rounds to the largest number is held.
    assert_eq!(told([&[(0, 3, 1e9), (5, 16, 65519.0)], &[(9, 47, -65519.0)]], (0, 9e9)), [None; 3]);
    // The first position counts, in its first layer.
    let first = told(
        [&[(6, 20, 65520.0)], &[(5, 40, -(2f32.powi(100))), (6, 21, 9e9), (9, 31, f32::INFINITY)]],
        (4, -7e4),
    );
    let (slot0, slot1) =
        (overflow("side channel", 0, 0, -70144.0), overflow("value", 11, 1, -(2f32.powi(100))));
    assert_eq!(first[..2], [slot0, slot1]);
    assert_eq!(first[2], overflow("key", 21, 1, f32::INFINITY));
    // What comes later changes nothing, and a slot that was cleared begins anew.
    lifetimes.clear(&lanes, &[1]).unwrap();
    let later = told([&[(1, 20, 1e9), (7, 33, 65520.0)], &[]], (0, 1.0));
    assert_eq!(later, [slot0, overflow("value", 13, 0, 65536.0), first[2]]);
    lifetimes.clear(&lanes, &[0, 1, 2]).unwrap();
    let nan = told([&[], &[(4, 16, f32::NAN)]], (0, 1.0));
    assert!(nan[1].is_some_and(|found| (found.what, found.position, found.layer) == ("key", 10, 1)));
    assert!(nan[1].is_some_and(|found| found.number.is_nan()) && nan[0].is_none() && nan[2].is_none());
}
