//! Lanes on the device against lists of entries.

use super::{DeathRecord, Deaths, DeviceLifetimes, PromptCut, SpanStatus, StepStatus};
use crate::cuda::testing::device;
use crate::cuda::testing::entries::{Entry, PADDING, check_pages, read, step_over, write};
use crate::cuda::{
    CudaError, Device, DeviceBuffer, DeviceLanes, DeviceSpan, DeviceStep, Graph, Specialisation, StepSize,
};
use crate::testing::Random;
use crate::{CodeBits, DType};

const BASE: Specialisation = Specialisation {
    weights: DType::F32,
    cache: DType::Bf16,
    codes: None,
    query_heads: 4,
    kv_heads: 4,
    groups: 1,
    head_dim: 8,
    hidden: 32,
    side_width: 4,
    statistics: 0,
};

fn specialisations() -> [Specialisation; 6] {
    [
        BASE,
        Specialisation { groups: 4, side_width: 5, statistics: 1, ..BASE },
        Specialisation { cache: DType::F32, groups: 2, head_dim: 16, side_width: 0, ..BASE },
        Specialisation { cache: DType::F16, kv_heads: 2, groups: 2, head_dim: 64, side_width: 64, ..BASE },
        Specialisation { cache: DType::F16, codes: Some(CodeBits::Eight), head_dim: 80, ..BASE },
        Specialisation { cache: DType::F16, codes: Some(CodeBits::Four), groups: 2, head_dim: 40, ..BASE },
    ]
}

/// Shuffled positions; entry i ends as `end` says.
fn lane(
    random: &mut Random,
    specialisation: &Specialisation,
    length: usize,
    mut end: impl FnMut(&mut Random, usize) -> u32,
) -> Vec<Entry> {
    let mut positions: Vec<u32> = (0..length as u32).collect();
    (1..length).for_each(|i| positions.swap(i, random.below(i + 1)));
    let entry = |(i, position)| {
        let mut entry = Entry::random(random, specialisation, position);
        entry.expires_at = end(random, i);
        entry.killer = if entry.expires_at == u32::MAX { u32::MAX } else { entry.expires_at - 1 };
        entry
    };
    positions.into_iter().enumerate().map(entry).collect()
}

/// Holes from the front, filled with the living behind them, both in order.
fn reclaimed(entries: &[Entry], now: u32) -> Vec<Entry> {
    let alive = |entry: &&Entry| entry.expires_at > now;
    let live = entries.iter().filter(alive).count();
    let mut sources = entries[live..].iter().filter(alive);
    let keep =
        |entry: &Entry| if entry.expires_at > now { entry.clone() } else { sources.next().unwrap().clone() };
    entries[..live].iter().map(keep).collect()
}

struct Bench {
    lanes: DeviceLanes,
    lifetimes: DeviceLifetimes,
    contents: Vec<Vec<Entry>>,
}

impl Bench {
    fn new(
        device: &Device,
        random: &mut Random,
        specialisation: Specialisation,
        layers: usize,
        slots: usize,
        contents: Vec<Vec<Entry>>,
        spare: usize,
    ) -> Self {
        let pages: usize = contents.iter().map(|lane| lane.len().div_ceil(32)).sum();
        let longest = contents.iter().map(Vec::len).max().unwrap_or(0);
        let lanes =
            DeviceLanes::new(device, &specialisation, layers, slots, longest + 400, pages + spare).unwrap();
        lanes.make_endless();
        write(random, &lanes, &contents);
        let lifetimes = DeviceLifetimes::new(device, &specialisation).unwrap();
        Self { lanes, lifetimes, contents }
    }

    fn reclaim(
        &self,
        device: &Device,
        spans: &[DeviceSpan],
        room: Option<usize>,
    ) -> (Vec<u32>, Vec<DeathRecord>, u32) {
        let step = step_over(device, &self.lanes, spans, spans.len() + 1);
        let status =
            DeviceBuffer::copy_of(device, "a test", &vec![77u32; StepStatus::words(spans.len()) + 1])
                .unwrap();
        let deaths = room.map(|room| Deaths::new(device, room).unwrap());
        let size = StepSize { rows: 1, spans: spans.len() };
        self.lifetimes.reclaim(&self.lanes, &step, size, deaths.as_ref(), &status).unwrap();
        let mut status = status.read().unwrap();
        assert_eq!(status.pop(), Some(77), "written behind the status");
        let count = deaths.as_ref().map_or(0, |deaths| deaths.count.read().unwrap()[0]);
        let mut records = deaths.map_or(Vec::new(), |deaths| deaths.records.read().unwrap());
        records.truncate(count as usize);
        (status, records, count)
    }

    /// What the status must be, for lanes as they are now.
    fn status(&self, spans: &[DeviceSpan], lanes: &[Vec<Entry>]) -> Vec<u32> {
        let per_slot = lanes.len() / self.lanes.slots();
        let mut status = vec![self.lanes.free_pages().unwrap() as u32, 0];
        for span in spans {
            let own = if span.slot == u32::MAX {
                &[][..]
            } else {
                &lanes[span.slot as usize * per_slot..][..per_slot]
            };
            let sum = |count: &dyn Fn(usize) -> usize| {
                own.iter().map(|lane| count(lane.len())).sum::<usize>() as u32
            };
            status.extend([sum(&|e| usize::from(e % 32 == 0)), sum(&|e| e.div_ceil(32)), sum(&|e| e)]);
            status.extend([u32::MAX; 2]);
        }
        status
    }
}

#[test]
fn cuda_reclaim_frees_what_has_ended_and_nothing_else() {
    let Some(device) = device("cuda_reclaim_frees_what_has_ended_and_nothing_else") else { return };
    let random = &mut Random(1);
    let lengths = [0, 1, 31, 32, 33, 64, 100, 500, 1024, 8192, 9000, 20_000];
    for specialisation in specialisations() {
        let (layers, slots) = (3, 5);
        let now = 1000;
        let contents: Vec<_> = (0..slots * layers * specialisation.groups)
            .map(|i| {
                // Long lanes are few: they are slow to write from here.
                let length = if i % 7 == 0 { random.pick(&lengths) } else { random.pick(&lengths[..9]) };
                let kind = random.below(7);
                let one = random.below(length.max(1));
                lane(random, &specialisation, length, |random, entry| match kind {
                    0 => u32::MAX,
                    1 => now,
                    2 => {
                        if entry == one {
                            now
                        } else {
                            now + 1
                        }
                    }
                    3 => {
                        if entry > one {
                            5
                        } else {
                            u32::MAX
                        }
                    }
                    4 => {
                        if entry < one {
                            5
                        } else {
                            u32::MAX
                        }
                    }
                    5 => {
                        if random.below(100) == 0 {
                            now
                        } else {
                            u32::MAX
                        }
                    }
                    _ => {
                        if random.below(3) > 0 {
                            now - random.below(3) as u32
                        } else {
                            now + 1
                        }
                    }
                })
            })
            .collect();
        let bench = Bench::new(&device, random, specialisation, layers, slots, contents, 9);
        let span = |slot, first_position, queries| DeviceSpan { slot, first_row: 0, queries, first_position };
        // Slot 2 is no part of the step.
        let spans = [span(4, 999, 1), PADDING, span(0, 900, 100), span(3, 999, 1), span(1, 999, 1), PADDING];
        let (status, mut records, count) = bench.reclaim(&device, &spans, Some(300_000));
        check_pages(&bench.lanes);
        let found = read(&bench.lanes);
        let per_slot = layers * specialisation.groups;
        let mut died = Vec::new();
        for (i, (found, before)) in found.iter().zip(&bench.contents).enumerate() {
            let stays = i / per_slot == 2;
            let expected = if stays { before.clone() } else { reclaimed(before, now) };
            assert!(*found == expected, "{specialisation:?}: lane {i} of {} entries", before.len());
            died.extend(before.iter().filter(|entry| !stays && entry.expires_at <= now).map(|entry| {
                DeathRecord {
                    slot: (i / per_slot) as u32,
                    layer: (i % per_slot / specialisation.groups) as u32,
                    group: (i % specialisation.groups) as u32,
                    position: entry.position,
                    expires_at: entry.expires_at,
                    killer: entry.killer,
                }
            }));
        }
        assert_eq!(status, bench.status(&spans, &found));
        died.sort_unstable();
        records.sort_unstable();
        assert_eq!(count as usize, died.len());
        assert!(records == died, "{specialisation:?}: deaths");
    }
}

#[test]
fn cuda_deaths_beyond_their_room_are_counted() {
    let Some(device) = device("cuda_deaths_beyond_their_room_are_counted") else { return };
    let random = &mut Random(2);
    let contents = vec![lane(random, &BASE, 500, |_, i| if i % 2 == 0 { 7 } else { 8 }); 3];
    let bench = Bench::new(&device, random, BASE, 1, 3, contents, 0);
    let spans = [0, 1, 2].map(|slot| DeviceSpan { slot, first_row: 0, queries: 1, first_position: 6 });
    let (_, records, count) = bench.reclaim(&device, &spans, Some(100));
    assert_eq!((count, records.len()), (750, 100));
    assert!(records.iter().all(|record| record.expires_at == 7));
    assert!(bench.lanes.lengths().unwrap().iter().all(|&length| length == 250));
}

#[test]
fn cuda_a_recorded_step_grows_and_reclaims_again_and_again() {
    let Some(device) = device("cuda_a_recorded_step_grows_and_reclaims_again_and_again") else { return };
    let random = &mut Random(3);
    for specialisation in specialisations() {
        let per_slot = 2 * specialisation.groups;
        let contents: Vec<_> = (0..4 * per_slot)
            .map(|_| {
                let length = random.below(200);
                lane(random, &specialisation, length, |random, _| 1000 + random.below(60) as u32)
            })
            .collect();
        let bench = Bench::new(&device, random, specialisation, 2, 4, contents, 4 * per_slot * 12);
        let mut lists = bench.contents.clone();
        let step = DeviceStep::new(&device, 2, specialisation.groups, 8, 6).unwrap();
        let status = DeviceBuffer::copy_of(&device, "a test", &[5u32; 40]).unwrap();
        let size = StepSize { rows: 4, spans: 5 };
        let lanes = &bench.lanes;
        let mut graph = Graph::record(&device, || -> Result<(), CudaError> {
            bench.lifetimes.grow(lanes, &step, size).unwrap();
            bench.lifetimes.reclaim(lanes, &step, size, None, &status).unwrap();
            Ok(())
        })
        .unwrap();
        for now in 1000..1050 {
            let queries = 1 + random.below(3) as u32;
            let span = |slot| DeviceSpan { slot, first_row: 0, queries, first_position: now - queries };
            let mut spans = [span(3), PADDING, span(1), span(0), PADDING];
            if now % 3 == 0 {
                spans[2] = PADDING;
            }
            step.spans.write(0, &spans).unwrap();
            let before = bench.lanes.lengths().unwrap();
            graph.launch().unwrap();
            // New entries are whatever the page held: give them a life before looking at what died.
            let found = read(&bench.lanes);
            check_pages(&bench.lanes);
            assert_eq!(
                status.read_range(0, StepStatus::words(spans.len())).unwrap(),
                bench.status(&spans, &found)
            );
            for (i, list) in lists.iter_mut().enumerate() {
                let stepped = spans.iter().any(|span| span.slot as usize == i / per_slot);
                if !stepped {
                    assert!(found[i] == *list);
                    continue;
                }
                assert!(found[i].len() <= before[i] as usize + queries as usize);
                // The old ones among them are those that live.
                let mut old = list.iter().filter(|entry| entry.expires_at > now);
                assert!(old.all(|entry| found[i].contains(entry)), "{specialisation:?}: lane {i} at {now}");
                *list = found[i].clone();
            }
        }
    }
}

#[test]
fn cuda_lanes_grow_by_their_spans() {
    let Some(device) = device("cuda_lanes_grow_by_their_spans") else { return };
    let random = &mut Random(4);
    for (specialisation, slots) in specialisations().into_iter().zip([1, 300, 40, 257]) {
        let (layers, groups) = (2, specialisation.groups);
        let contents: Vec<_> = (0..slots * layers * groups)
            .map(|_| {
                let length = if random.below(10) == 0 { random.below(100) } else { 0 };
                lane(random, &specialisation, length, |_, _| u32::MAX)
            })
            .collect();
        let bench = Bench::new(
            &device,
            random,
            specialisation,
            layers,
            slots,
            contents,
            slots * layers * groups * 11,
        );
        let max_spans = slots + 3;
        let step = DeviceStep::new(&device, layers, groups, 1, max_spans).unwrap();
        step.first_pages.fill_bytes(0xee).unwrap();
        let mut order: Vec<u32> = (0..slots as u32).collect();
        (1..slots).for_each(|i| order.swap(i, random.below(i + 1)));
        let mut spans: Vec<_> = order
            .iter()
            .map(|&slot| {
                let queries = random.pick(&[0, 1, 1, 1, 31, 32, 33, 300]);
                DeviceSpan { slot, first_row: 0, queries, first_position: 9 }
            })
            .collect();
        spans.insert(random.below(slots), PADDING);
        spans.push(PADDING);
        step.spans.write(0, &spans).unwrap();
        bench.lifetimes.grow(&bench.lanes, &step, StepSize { rows: 1, spans: spans.len() }).unwrap();
        check_pages(&bench.lanes);
        let first_pages = step.first_pages.read().unwrap();
        let lengths = bench.lanes.lengths().unwrap();
        for layer in 0..layers {
            let first_pages = &first_pages[layer * (max_spans * groups + 1)..][..max_spans * groups + 1];
            let mut total = 0;
            for (i, span) in spans.iter().enumerate() {
                for group in 0..groups {
                    assert_eq!(first_pages[i * groups + group], total, "{specialisation:?} {i} {group}");
                    if span.slot != u32::MAX {
                        let lane = (span.slot as usize * layers + layer) * groups + group;
                        assert_eq!(
                            lengths[lane] as usize,
                            bench.contents[lane].len() + span.queries as usize
                        );
                        total += lengths[lane].div_ceil(32);
                    }
                }
            }
            assert_eq!(first_pages[spans.len() * groups], total);
            assert!(first_pages[spans.len() * groups + 1..].iter().all(|&page| page == 0xeeee_eeee));
        }
        for (found, before) in read(&bench.lanes).iter().zip(&bench.contents) {
            assert!(found[..before.len()] == before[..], "{specialisation:?}: an entry changed");
        }
    }
}

#[test]
fn cuda_cuts_lower_what_they_name_and_clear_forgets() {
    let Some(device) = device("cuda_cuts_lower_what_they_name_and_clear_forgets") else { return };
    let random = &mut Random(5);
    for specialisation in specialisations() {
        let per_slot = 2 * specialisation.groups;
        let slots = 40;
        let contents: Vec<_> = (0..slots * per_slot)
            .map(|_| {
                let length = random.pick(&[0, 1, 32, 70, 200]);
                lane(random, &specialisation, length, |random, _| random.pick(&[150, 200, 210, u32::MAX]))
            })
            .collect();
        let mut bench = Bench::new(&device, random, specialisation, 2, slots, contents, 0);
        let cut = |slot, floor_sinks, floor_recent| PromptCut {
            slot,
            first: 3,
            end: 150,
            recent: 0,
            expires_at: 200,
            killer: 199,
            floor_sinks,
            floor_recent,
        };
        let mut cuts: Vec<_> = (2..slots as u32).map(|slot| cut(slot, slot % 8, slot % 3 * 90)).collect();
        cuts.push(PromptCut { expires_at: 5, killer: 1, ..cut(0, 0, 0) });
        bench.lifetimes.cut(&bench.lanes, &cuts, None).unwrap();
        for cut in &cuts {
            for lane in &mut bench.contents[cut.slot as usize * per_slot..][..per_slot] {
                for entry in lane.iter_mut().filter(|entry| (cut.first..cut.end).contains(&entry.position)) {
                    entry.lower(cut.expires_at, cut.killer, (cut.floor_sinks, cut.floor_recent));
                }
            }
        }
        assert!(read(&bench.lanes) == bench.contents, "{specialisation:?}");
        // A window from 160 on, in the last lane of each layer.
        let (window, last) = (
            PromptCut { recent: 90, expires_at: 160, killer: 159, ..cut(1, 5, 2) },
            specialisation.groups - 1,
        );
        let heads = DeviceBuffer::copy_of(&device, "heads", &[1u32 << last, 0, 0, 0].repeat(2)).unwrap();
        bench.lifetimes.cut(&bench.lanes, &[window], Some(&heads)).unwrap();
        for lane in bench.contents[per_slot..2 * per_slot].iter_mut().skip(last).step_by(last + 1) {
            for entry in lane.iter_mut().filter(|entry| (window.first..window.end).contains(&entry.position))
            {
                let end = entry.position + 90;
                let (end, killer) = if end > 160 { (end, end) } else { (160, 159) };
                entry.lower(end, killer, (5, 2));
            }
        }
        assert!(read(&bench.lanes) == bench.contents, "{specialisation:?}: a window in some lanes");
        for slot in [0, 1, slots - 1] {
            let expected: Vec<(Vec<u32>, Vec<u32>)> = bench.contents[slot * per_slot..][..per_slot]
                .iter()
                .map(|lane| lane.iter().map(|entry| (entry.position, entry.expires_at)).unzip())
                .collect();
            assert_eq!(bench.lifetimes.lifetimes_of(&bench.lanes, slot).unwrap(), expected);
        }
        bench.lifetimes.clear(&bench.lanes, &[1, 5, 0, 5]).unwrap();
        for slot in [0, 1, 5] {
            bench.contents[slot * per_slot..][..per_slot].iter_mut().for_each(Vec::clear);
        }
        check_pages(&bench.lanes);
        assert!(read(&bench.lanes) == bench.contents, "{specialisation:?}");
        assert!(bench.lifetimes.clear(&bench.lanes, &[slots as u32]).is_err());
        assert!(bench.lifetimes.cut(&bench.lanes, &[cut(slots as u32, 0, 0)], None).is_err());
        assert!(bench.lifetimes.lifetimes_of(&bench.lanes, slots).is_err());
    }
}

/// Spans of `queries` new tokens for every slot.
fn every_slot(slots: usize, queries: u32) -> Vec<DeviceSpan> {
    let span = |slot| DeviceSpan { slot, first_row: 0, queries, first_position: 1 << 20 };
    (0..slots as u32).map(span).collect()
}

/// A step of these spans, which may be anything.
fn step_of(device: &Device, lanes: &DeviceLanes, spans: &[DeviceSpan]) -> DeviceStep {
    let step = DeviceStep::new(device, lanes.layers(), 1, 1, spans.len()).unwrap();
    step.spans.write(0, spans).unwrap();
    step
}

#[test]
fn cuda_lanes_that_find_no_pages_stay_as_they_are() {
    let Some(device) = device("cuda_lanes_that_find_no_pages_stay_as_they_are") else { return };
    let random = &mut Random(6);
    // Pages are taken for 512 lanes together: 600 lanes of a layer are two turns.
    for (layers, slots, spare) in [(1, 3, 0), (3, 4, 5), (2, 600, 700), (5, 40, 39)] {
        let contents: Vec<_> = (0..slots * layers)
            .map(|i| {
                // At least every other lane takes a page.
                let length = random.pick(&[0, 32, 64, 31, 5][..if i % 2 == 0 { 3 } else { 5 }]);
                lane(random, &BASE, length, |_, _| u32::MAX)
            })
            .collect();
        let bench = Bench::new(&device, random, BASE, layers, slots, contents, spare);
        let spans = every_slot(slots, 1);
        let step = step_of(&device, &bench.lanes, &spans);
        let size = StepSize { rows: slots, spans: slots };
        bench.lifetimes.grow(&bench.lanes, &step, size).unwrap();
        // Before anybody gives pages back, and after.
        check_pages(&bench.lanes);
        let lengths = bench.lanes.lengths().unwrap();
        let status = DeviceBuffer::<u32>::zeroed(&device, "a test", StepStatus::words(slots)).unwrap();
        bench.lifetimes.reclaim(&bench.lanes, &step, size, None, &status).unwrap();
        check_pages(&bench.lanes);
        let refused =
            bench.contents.iter().zip(&lengths).filter(|(lane, length)| lane.len() == **length as usize);
        let status = status.read().unwrap();
        assert_eq!(status[1] as usize, refused.count());
        assert!(status[1] > 0 && status[0] as usize == bench.lanes.free_pages().unwrap());
        for ((found, before), &length) in read(&bench.lanes).iter().zip(&bench.contents).zip(&lengths) {
            assert!(length as usize - before.len() <= 1, "{} entries became {length}", before.len());
            assert!(found[..before.len()] == before[..], "an entry changed");
        }
        // Places in the line are those of the lanes as they are now.
        let first_pages = step.first_pages.read().unwrap();
        for (layer, firsts) in first_pages.chunks(slots + 1).enumerate() {
            let pages = (0..slots).map(|slot| lengths[slot * layers + layer].div_ceil(32));
            let ends: Vec<u32> =
                pages.scan(0, |sum, pages| Some(std::mem::replace(sum, *sum + pages))).collect();
            assert_eq!(firsts[..slots], ends);
        }
        // A step that fits is as good as ever.
        let idle = step_of(&device, &bench.lanes, &every_slot(slots, 0));
        let status = DeviceBuffer::<u32>::zeroed(&device, "a test", StepStatus::words(slots)).unwrap();
        bench.lifetimes.grow(&bench.lanes, &idle, size).unwrap();
        bench.lifetimes.reclaim(&bench.lanes, &idle, size, None, &status).unwrap();
        assert_eq!(status.read_range(1, 1).unwrap(), [0]);
        check_pages(&bench.lanes);
    }
}

#[test]
fn cuda_clearing_after_a_refusal_loses_no_page() {
    let Some(device) = device("cuda_clearing_after_a_refusal_loses_no_page") else { return };
    let random = &mut Random(7);
    let contents = vec![lane(random, &BASE, 64, |_, _| u32::MAX); 6];
    let bench = Bench::new(&device, random, BASE, 2, 3, contents, 3);
    let step = step_of(&device, &bench.lanes, &every_slot(3, 40));
    bench.lifetimes.grow(&bench.lanes, &step, StepSize { rows: 3, spans: 3 }).unwrap();
    bench.lifetimes.clear(&bench.lanes, &[0, 2]).unwrap();
    check_pages(&bench.lanes);
    bench.lifetimes.clear(&bench.lanes, &[1]).unwrap();
    check_pages(&bench.lanes);
    assert_eq!(bench.lanes.free_pages().unwrap(), bench.lanes.capacity());
}

#[test]
fn cuda_a_lane_never_outgrows_its_table() {
    let Some(device) = device("cuda_a_lane_never_outgrows_its_table") else { return };
    let random = &mut Random(8);
    let contents = vec![
        lane(random, &BASE, 32, |_, _| u32::MAX),
        lane(random, &BASE, 95, |_, _| u32::MAX),
        Vec::new(),
        lane(random, &BASE, 96, |_, _| u32::MAX),
    ];
    // Tables of 3 pages, and pages in plenty.
    let lanes = DeviceLanes::new(&device, &BASE, 1, 4, 96, 40).unwrap();
    lanes.make_endless();
    write(random, &lanes, &contents);
    let lifetimes = DeviceLifetimes::new(&device, &BASE).unwrap();
    let step = step_of(&device, &lanes, &every_slot(4, 2));
    let size = StepSize { rows: 4, spans: 4 };
    let status = DeviceBuffer::<u32>::zeroed(&device, "a test", StepStatus::words(4)).unwrap();
    lifetimes.grow(&lanes, &step, size).unwrap();
    lifetimes.reclaim(&lanes, &step, size, None, &status).unwrap();
    assert_eq!(lanes.lengths().unwrap(), [34, 95, 2, 96]);
    assert_eq!(status.read_range(0, 2).unwrap(), [40 - 2 - 3 - 1 - 3, 2]);
    check_pages(&lanes);
    for queries in [96, 1 << 20, u32::MAX] {
        let step = step_of(&device, &lanes, &every_slot(4, queries));
        lifetimes.grow(&lanes, &step, size).unwrap();
        assert_eq!(lanes.lengths().unwrap(), [34, 95, 2, 96], "{queries}");
    }
    check_pages(&lanes);
}

#[test]
fn cuda_slots_that_do_not_exist_are_passed_over() {
    let Some(device) = device("cuda_slots_that_do_not_exist_are_passed_over") else { return };
    let random = &mut Random(9);
    let contents = vec![lane(random, &BASE, 40, |_, _| 7); 4];
    let bench = Bench::new(&device, random, BASE, 2, 2, contents, 8);
    let foreign = [2, 3, 1 << 20, u32::MAX].map(|slot| DeviceSpan {
        slot,
        first_row: 0,
        queries: 1,
        first_position: 9,
    });
    let step = step_of(&device, &bench.lanes, &foreign);
    let size = StepSize { rows: 4, spans: 4 };
    let status = DeviceBuffer::<u32>::zeroed(&device, "a test", StepStatus::words(4)).unwrap();
    bench.lifetimes.grow(&bench.lanes, &step, size).unwrap();
    bench.lifetimes.reclaim(&bench.lanes, &step, size, None, &status).unwrap();
    let status = status.read().unwrap();
    let status = StepStatus::new(&status);
    assert_eq!((status.free_pages(), status.refused()), (8, 0));
    assert!((0..4).all(|span| status.span(span) == SpanStatus::default()));
    assert!(read(&bench.lanes) == bench.contents);
    check_pages(&bench.lanes);
}

#[test]
fn cuda_kernels_refuse_lanes_of_another_kind() {
    let Some(device) = device("cuda_kernels_refuse_lanes_of_another_kind") else { return };
    let lifetimes = DeviceLifetimes::new(&device, &BASE).unwrap();
    for other in &specialisations()[1..] {
        let lanes = DeviceLanes::new(&device, other, 1, 1, 64, 8).unwrap();
        let step = DeviceStep::new(&device, 1, other.groups, 1, 1).unwrap();
        let error = lifetimes.grow(&lanes, &step, StepSize { rows: 1, spans: 1 }).unwrap_err();
        assert!(error.to_string().contains("lanes of bf16, 4 KV heads in 1 groups"), "{error}");
        assert!(lifetimes.clear(&lanes, &[0]).is_err() && lifetimes.lifetimes_of(&lanes, 0).is_err());
    }
}
