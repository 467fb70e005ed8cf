//! Votes on the device against sums in f64, and against themselves in other portions.

use super::DeviceVotes;
use crate::DType;
use crate::cuda::testing::device;
use crate::cuda::testing::entries::{Entry, PADDING, bytes_of, floats_of, read, step_over, write};
use crate::cuda::{Device, DeviceBuffer, DeviceLanes, DeviceSpan, Specialisation, StepSize};
use crate::testing::Random;

/// A raw vote nearer to 0 than this share of the sum of its terms' magnitudes (and of the bias) may fall on either
/// side: twice the bound in `votes.cuh` at r = 256.
const UNDECIDED: f64 = 1e-5;

struct Case {
    specialisation: Specialisation,
    heads: usize,
    layers: usize,
    layer: usize,
    contents: Vec<Vec<Entry>>,
    spans: Vec<DeviceSpan>,
    rows: usize,
    /// `[rows, 2 * heads * r]`
    gates: Vec<f32>,
    bias: Vec<f32>,
    floors: (u32, u32),
}

impl Case {
    fn random(random: &mut Random, cache: DType, width: usize, groups: usize, queries: &[u32]) -> Self {
        let specialisation = Specialisation {
            weights: DType::F32,
            cache,
            codes: None,
            query_heads: 4,
            kv_heads: 4,
            groups,
            head_dim: 8,
            hidden: 32,
            side_width: width,
            statistics: 0,
        };
        let heads = random.pick(&[1, groups]);
        let slots = queries.len() + 1;
        let layers = 2;
        let mut rows = random.below(5);
        let mut spans = Vec::new();
        for (i, &queries) in queries.iter().enumerate() {
            if random.below(3) == 0 {
                spans.push(PADDING);
            }
            // Some entries are older than the step, some are its own tokens.
            let first_position = random.pick(&[0, 1, 40, 300]);
            let slot = (slots - 1 - i) as u32;
            spans.push(DeviceSpan { slot, first_row: rows as u32, queries, first_position });
            rows += queries as usize + random.below(3);
        }
        spans.push(PADDING);
        let scale = random.pick(&[1.0, 1e-6, 1e5]);
        let bias: Vec<f32> = (0..heads).map(|_| random.pick(&[0.0, 0.2, -0.1, 1.0]) * scale).collect();
        let gates = random.row(rows * 2 * heads * width).iter().map(|x| x * scale).collect();
        let mut contents = vec![Vec::new(); slots * layers * groups];
        for span in spans.iter().filter(|span| span.slot != u32::MAX) {
            for lane in &mut contents[span.slot as usize * layers * groups..][..layers * groups] {
                // All tokens so far, less those that have died.
                let gone = random.pick(&[0, 0, 1, 2]);
                let all = 0..span.first_position + span.queries;
                *lane = all
                    .filter(|_| random.below(3) >= gone)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .map(|position| entry(random, &specialisation, position))
                    .collect();
                if random.below(3) > 0 {
                    (1..lane.len()).for_each(|i| lane.swap(i, random.below(i + 1)));
                }
            }
        }
        let floors = (random.pick(&[0, 0, 4]), random.pick(&[0, 1, 20]));
        Self {
            specialisation,
            heads,
            layers,
            layer: random.below(layers),
            contents,
            spans,
            rows,
            gates,
            bias,
            floors,
        }
    }

    /// The lanes after the votes of queries `from..to` of every span, portion by portion.
    fn vote(
        &self,
        device: &Device,
        random: &mut Random,
        portions: &[(u32, u32)],
        lower: bool,
    ) -> Vec<Vec<Entry>> {
        let pages: usize = self.contents.iter().map(|lane| lane.len().div_ceil(32)).sum();
        let longest = self.contents.iter().map(Vec::len).max().unwrap_or(0);
        let slots = self.contents.len() / (self.layers * self.specialisation.groups);
        let lanes =
            DeviceLanes::new(device, &self.specialisation, self.layers, slots, longest + 32, pages + 1)
                .unwrap();
        write(random, &lanes, &self.contents);
        let votes = DeviceVotes::new(device, &self.specialisation, self.heads).unwrap();
        let gates = DeviceBuffer::copy_of(device, "a test", &self.gates).unwrap();
        let bias = DeviceBuffer::copy_of(device, "a test", &self.bias).unwrap();
        for &(from, to) in portions {
            let part = |span: &DeviceSpan| {
                let (from, to) = (from.min(span.queries), to.min(span.queries));
                DeviceSpan {
                    first_row: span.first_row + from,
                    queries: to - from,
                    first_position: span.first_position + from,
                    ..*span
                }
            };
            let spans: Vec<_> = self.spans.iter().map(part).collect();
            let step = step_over(device, &lanes, &spans, spans.len() + 2);
            // A step that says it is small is voted on as decode is, whatever its spans hold.
            let rows = if to - from < 40 { spans.len() } else { self.rows };
            let size = StepSize { rows, spans: spans.len() };
            votes.vote(&lanes, &step, size, self.layer, &gates, &bias, self.floors, lower).unwrap();
        }
        read(&lanes)
    }

    /// All that may become of an entry of the lane of `span` and `group`.
    fn outcomes(&self, span: &DeviceSpan, group: usize, before: &Entry) -> Vec<Entry> {
        let r = self.specialisation.side_width;
        let head = if self.heads > 1 { group } else { 0 };
        let side = before.rows.len() - r * self.specialisation.cache.bytes();
        let key = floats_of(self.specialisation.cache, &before.rows[side..]);
        let mut outcomes = Vec::new();
        for i in 0..span.queries {
            let n = span.first_position + i;
            if !(before.position < n && n < before.expires_at) {
                continue;
            }
            let row = &self.gates[(span.first_row + i) as usize * 2 * self.heads * r + head * r..][..r];
            let terms = row.iter().zip(&key).map(|(&q, &k)| f64::from(q) * k / (r as f64).sqrt());
            let bias = f64::from(self.bias[head]);
            let (sum, size) = terms.fold((bias, bias.abs()), |(sum, size), x| (sum + x, size + x.abs()));
            if sum > UNDECIDED * size {
                continue;
            }
            let mut after = before.clone();
            after.lower(n, n, self.floors);
            outcomes.push(after);
            // NaN refuses.
            if sum.is_nan() || sum < -UNDECIDED * size {
                return outcomes;
            }
        }
        outcomes.push(before.clone());
        outcomes
    }

    fn check(&self, after: &[Vec<Entry>]) {
        let groups = self.specialisation.groups;
        for (lane, (before, after)) in self.contents.iter().zip(after).enumerate() {
            let (slot, layer, group) =
                (lane / groups / self.layers, lane / groups % self.layers, lane % groups);
            let span = self.spans.iter().find(|span| span.slot as usize == slot);
            assert_eq!(before.len(), after.len());
            for (i, (before, after)) in before.iter().zip(after).enumerate() {
                let allowed = match span {
                    Some(span) if layer == self.layer => self.outcomes(span, group, before),
                    _ => vec![before.clone()],
                };
                assert!(
                    allowed.contains(after),
                    "{:?}, {} gate heads, {span:?}, lane {lane}, entry {i}: {before:?} became {after:?}",
                    self.specialisation,
                    self.heads
                );
            }
        }
    }
}

/// Key gates lean to one side, so that some entries live long.
fn entry(random: &mut Random, specialisation: &Specialisation, position: u32) -> Entry {
    let mut entry = Entry::random(random, specialisation, position);
    let r = specialisation.side_width;
    let mut key = random.row(r);
    match random.below(40) {
        0 => key[random.below(r)] = f32::NAN,
        1 => key.fill(0.0),
        2 => key[random.below(r)] = f32::INFINITY,
        _ => {}
    }
    let bytes = bytes_of(specialisation.cache, &key);
    let side = entry.rows.len() - bytes.len();
    entry.rows[side..].copy_from_slice(&bytes);
    if random.below(3) == 0 {
        entry.expires_at = position + 1 + random.below(100) as u32;
        entry.killer = position + random.below(2) as u32;
    }
    entry
}

/// Widths with a number of lanes for each: few, because each pair is compiled.
const SHAPES: [(DType, usize, usize); 14] = [
    (DType::F32, 5, 2),
    (DType::F32, 64, 1),
    (DType::F32, 256, 4),
    (DType::Bf16, 1, 1),
    (DType::Bf16, 8, 2),
    (DType::Bf16, 64, 4),
    (DType::Bf16, 96, 1),
    (DType::Bf16, 200, 2),
    (DType::F16, 5, 4),
    (DType::F16, 16, 1),
    (DType::F16, 33, 2),
    (DType::F16, 64, 1),
    (DType::F16, 128, 4),
    (DType::F16, 256, 1),
];

#[test]
fn cuda_the_first_query_that_refuses_ends_an_entry() {
    let Some(device) = device("cuda_the_first_query_that_refuses_ends_an_entry") else { return };
    let random = &mut Random(11);
    for (cache, width, groups) in SHAPES {
        for queries in [&[1, 1, 1, 1][..], &[1], &[700], &[3, 40, 0, 17, 200]] {
            let case = Case::random(random, cache, width, groups, queries);
            let whole = case.vote(&device, random, &[(0, u32::MAX)], true);
            case.check(&whole);
            let untouched = case.vote(&device, random, &[(0, u32::MAX)], false);
            assert!(untouched == case.contents, "lowered without leave");
        }
    }
}

#[test]
fn cuda_votes_do_not_depend_on_how_queries_come() {
    let Some(device) = device("cuda_votes_do_not_depend_on_how_queries_come") else { return };
    let random = &mut Random(12);
    for (cache, width, groups) in SHAPES {
        let case = Case::random(random, cache, width, groups, &[90, 33, 1, 64]);
        let whole = case.vote(&device, random, &[(0, u32::MAX)], true);
        let single: Vec<_> = (0..90).map(|query| (query, query + 1)).collect();
        for portions in [&single[..], &[(0, 2), (2, 33), (33, 90)], &[(0, 7), (7, 8), (8, 61), (61, 90)]] {
            let parts = case.vote(&device, random, portions, true);
            assert!(parts == whole, "{:?} {width} in {} portions", cache, portions.len());
        }
    }
}

/// More rows than gates are split for at once, and entries that end in each of the portions.
#[test]
fn cuda_votes_of_long_prompts_are_cast_in_portions() {
    let Some(device) = device("cuda_votes_of_long_prompts_are_cast_in_portions") else { return };
    let random = &mut Random(13);
    for cache in [DType::Bf16, DType::F16] {
        let mut case = Case::random(random, cache, 16, 1, &[1, 9000]);
        case.bias.fill(1.2 * case.gates.iter().fold(0.0f32, |most, x| most.max(x.abs())));
        for lane in &mut case.contents {
            lane.truncate(150);
        }
        let whole = case.vote(&device, random, &[(0, u32::MAX)], true);
        case.check(&whole);
        let halves = case.vote(&device, random, &[(0, 4321), (4321, 9000)], true);
        assert!(halves == whole);
    }
}

#[test]
fn cuda_zero_refuses_and_nobody_refuses_itself() {
    let Some(device) = device("cuda_zero_refuses_and_nobody_refuses_itself") else { return };
    let random = &mut Random(14);
    for cache in DType::ALL {
        for (raw, refuses) in [(0.0, true), (-0.0, true), (f32::NAN, true), (-1.0, true), (1e-4, false)] {
            for queries in [3, 30] {
                let mut case = Case::random(random, cache, 1, 1, &[queries]);
                case.floors = (0, 0);
                (case.heads, case.bias, case.rows) = (1, vec![0.0], queries as usize);
                case.spans = vec![DeviceSpan { slot: 1, first_row: 0, queries, first_position: 37 }];
                case.gates = vec![1.0; 2 * queries as usize];
                case.contents.iter_mut().for_each(Vec::clear);
                let lane = 2 + case.layer;
                case.contents[lane] = (0..37 + queries)
                    .map(|position| {
                        let mut entry = Entry::random(random, &case.specialisation, position);
                        let bytes = bytes_of(cache, &[raw]);
                        let side = entry.rows.len() - bytes.len();
                        entry.rows[side..].copy_from_slice(&bytes);
                        entry
                    })
                    .collect();
                for entry in &case.vote(&device, random, &[(0, u32::MAX)], true)[lane] {
                    let first = 37.max(entry.position + 1);
                    let end = if refuses && first < 37 + queries { first } else { u32::MAX };
                    assert_eq!((entry.expires_at, entry.killer), (end, end), "{cache:?} raw vote {raw}");
                }
            }
        }
    }
}
