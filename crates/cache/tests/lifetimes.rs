//! A decision is a lifetime: what lanes promise about it, case by case.

#![cfg(test)]

use dropcap_cache::{CacheError, Death, KeyValueRows, KvCache, KvReport, Lane, LayerIdx, NEVER, PagePool};
use dropcap_kernels::{DType, PAGE_ENTRIES, PageLayout};

fn pool(limit_pages: Option<usize>) -> PagePool {
    let layout = PageLayout::new(1, 2, vec![1], DType::F32).unwrap();
    let limit = limit_pages.map(|pages| pages * layout.bytes());
    PagePool::new(layout, limit)
}

/// A lane of `count` entries; key, value and side channel of each say its position.
fn lane(pool: &PagePool, count: usize) -> Lane {
    let mut lane = Lane::new(pool);
    grow(&mut lane, 0, count).unwrap();
    lane
}

fn grow(lane: &mut Lane, first: u32, count: usize) -> Result<(), CacheError> {
    let rows: Vec<f32> = (0..count).flat_map(|i| [first as f32 + i as f32; 2]).collect();
    let new = lane.append(first, count, &rows, &rows, 2, None)?;
    lane.write_side(new, 0, &rows, 2)
}

fn reclaim(lane: &mut Lane, now: u32) -> Vec<Death> {
    let mut died = Vec::new();
    let freed = lane.reclaim(now, &mut |death| died.push(death)).unwrap();
    assert_eq!(freed, died.len());
    died
}

fn assert_whole(lane: &Lane) {
    assert_eq!(lane.pages(), lane.len().div_ceil(PAGE_ENTRIES));
    for (entry, &position) in lane.positions().iter().enumerate() {
        let position = position as f32;
        assert_eq!(lane.read_key(entry, 0).unwrap(), [position; 2]);
        assert_eq!(lane.read_value(entry, 0).unwrap(), [position; 2]);
        assert_eq!(lane.read_side(entry, 0).unwrap(), [position]);
    }
}

#[test]
fn a_lifetime_never_grows() {
    let mut lane = lane(&pool(None), 3);
    assert!(lane.lower(0, 9, 8));
    assert!(!lane.lower(0, 10, 4));
    assert!(!lane.lower(0, NEVER, 4));
    assert_eq!((lane.expires_at()[0], lane.killers()[0]), (9, 8));
    assert!(lane.lower(0, 7, 7));
    assert_eq!((lane.expires_at()[0], lane.killers()[0]), (7, 7));
}

#[test]
fn of_two_killers_at_one_query_the_earlier_counts_in_either_order() {
    for order in [[3, 8], [8, 3]] {
        let mut lane = lane(&pool(None), 2);
        let lowered = order.map(|killer| lane.lower(0, 9, killer));
        assert_eq!(lowered, [true, false]);
        assert_eq!((lane.expires_at()[0], lane.killers()[0]), (9, 3));
    }
}

#[test]
fn a_token_never_kills_itself() {
    let mut lane = lane(&pool(None), 6);
    assert!(lane.lower(5, 0, 0));
    assert_eq!((lane.expires_at()[5], lane.killers()[5]), (6, 5));
    assert!(reclaim(&mut lane, 5).is_empty());
    assert_eq!(reclaim(&mut lane, 6), [Death { position: 5, expires_at: 6, killer: 5 }]);
}

#[test]
fn a_killer_is_a_query_that_could_have_decided() {
    let mut lane = lane(&pool(None), 3);
    lane.lower(1, 5, NEVER);
    lane.lower(2, 5, 0);
    assert_eq!(lane.killers(), [NEVER, 5, 2]);
}

#[test]
fn a_window_is_a_lifetime() {
    let mut lane = Lane::new(&pool(None));
    lane.append(10, 3, &[0.0; 6], &[0.0; 6], 2, Some(4)).unwrap();
    lane.append(13, 1, &[0.0; 2], &[0.0; 2], 2, Some(0)).unwrap();
    lane.append(14, 1, &[0.0; 2], &[0.0; 2], 2, Some(NEVER)).unwrap();
    assert_eq!(lane.expires_at(), [14, 15, 16, 14, NEVER]);
    assert_eq!(lane.killers(), [14, 15, 16, 14, NEVER]);
    let mut died: Vec<u32> = reclaim(&mut lane, 15).iter().map(|death| death.position).collect();
    died.sort_unstable();
    assert_eq!(died, [10, 11, 13]);
}

#[test]
fn an_entry_that_does_not_exist_is_not_lowered() {
    let mut lane = lane(&pool(None), 3);
    assert!(!lane.lower(3, 5, 5) && !lane.lower(usize::MAX, 5, 5));
    assert!(lane.read_key(3, 0).is_err() && lane.read_value(0, 1).is_err() && lane.read_side(0, 1).is_err());
}

#[test]
fn entries_stay_dense_and_whole_whoever_dies() {
    for (len, every) in [(1, 1), (32, 2), (33, 1), (64, 3), (65, 2), (200, 7), (200, 1), (31, 31)] {
        for offset in [0, 1, every - 1, len - 1] {
            let pool = pool(None);
            let mut lane = lane(&pool, len);
            let lowered = (offset..len).step_by(every).filter(|&entry| lane.lower(entry, 500, 500)).count();
            assert!(reclaim(&mut lane, 499).is_empty());
            assert_eq!(reclaim(&mut lane, 500).len(), lowered);
            assert_eq!(lane.len(), len - lowered);
            assert_eq!(pool.pages_in_use(), lane.len().div_ceil(PAGE_ENTRIES), "back in the pool at once");
            assert_whole(&lane);
            grow(&mut lane, 600, 40).unwrap();
            assert_whole(&lane);
        }
    }
}

#[test]
fn an_append_that_finds_no_room_changes_nothing() {
    let pool = pool(Some(3));
    let mut lane = lane(&pool, 40);
    assert_eq!((lane.pages_wanted(24), lane.pages_wanted(25), lane.pages_wanted(57)), (0, 1, 2));
    assert!(matches!(grow(&mut lane, 40, 57), Err(CacheError::PoolExhausted { .. })));
    assert_eq!((lane.len(), lane.pages(), pool.pages_in_use()), (40, 2, 2));
    assert_whole(&lane);
    grow(&mut lane, 40, 56).unwrap();
    assert_whole(&lane);
}

#[test]
fn rows_that_do_not_reach_are_refused() {
    let mut lane = lane(&pool(None), 1);
    let mut append = |first, count, keys: &[f32], values: &[f32], stride| {
        let error = lane.append(first, count, keys, values, stride, None).unwrap_err();
        assert_eq!((lane.len(), lane.pages()), (1, 1));
        error
    };
    let rows = |error| matches!(error, CacheError::Rows { .. });
    assert!(rows(append(1, 2, &[0.0; 3], &[0.0; 4], 2)));
    assert!(rows(append(1, 2, &[0.0; 4], &[0.0; 3], 2)));
    assert!(rows(append(1, 2, &[0.0; 4], &[0.0; 4], 1)));
    assert!(rows(append(1, 1, &[], &[], 2)));
    assert!(rows(append(1, usize::MAX, &[0.0; 4], &[0.0; 4], usize::MAX)));
    assert!(matches!(append(NEVER, 1, &[0.0; 2], &[0.0; 2], 2), CacheError::Positions { .. }));
    assert!(matches!(append(NEVER - 1, 2, &[0.0; 4], &[0.0; 4], 2), CacheError::Positions { .. }));
    assert_eq!(lane.append(NEVER - 1, 1, &[0.0; 2], &[0.0; 2], 0, Some(7)).unwrap(), 1..2);
    assert!(!lane.lower(1, 0, 0), "its one query is the last there is");
    assert_eq!(lane.append(9, 0, &[], &[], 0, Some(1)).unwrap(), 2..2);
    assert!(matches!(lane.write_side(1..3, 0, &[0.0; 2], 1), Err(CacheError::Bounds { .. })));
    assert!(matches!(lane.write_side(0..1, 1, &[0.0; 2], 1), Err(CacheError::Bounds { .. })));
    assert!(matches!(lane.write_side(0..2, 0, &[0.0; 1], 1), Err(CacheError::Rows { .. })));
}

#[test]
fn a_fork_costs_pages_only_where_one_of_both_writes() {
    let pool = pool(None);
    let lane = lane(&pool, 70);
    let mut fork = lane.fork();
    assert_eq!((pool.pages_in_use(), fork.pages()), (3, 3));
    assert_eq!((lane.pages_wanted(1), lane.pages_wanted(27)), (1, 2), "the last page is copied");
    grow(&mut fork, 70, 1).unwrap();
    assert_eq!((pool.pages_in_use(), lane.pages_wanted(1)), (4, 0), "the other is the only owner now");
    assert_eq!((lane.len(), fork.len()), (70, 71));
    fork.lower(3, 71, 71);
    assert_eq!((fork.expires_at()[3], lane.expires_at()[3]), (71, NEVER));
    assert_eq!(reclaim(&mut fork, 71).len(), 1);
    assert_eq!(pool.pages_in_use(), 5);
    fork.write_side(40..41, 0, &[40.0], 1).unwrap();
    assert_eq!(pool.pages_in_use(), 6);
    assert_whole(&lane);
    assert_whole(&fork);
    drop(lane);
    assert_eq!(pool.pages_in_use(), 3);
    assert_whole(&fork);
}

#[test]
fn a_reclaim_that_cannot_copy_a_shared_page_is_put_off() {
    let pool = pool(Some(2));
    let mut lane = lane(&pool, 64);
    let fork = lane.fork();
    lane.lower(0, 64, 64);
    assert!(reclaim(&mut lane, 64).is_empty());
    assert_eq!(lane.len(), 64);
    assert_whole(&lane);
    drop(fork);
    assert_eq!(reclaim(&mut lane, 64).len(), 1);
    assert_whole(&lane);
}

#[test]
fn a_shared_tail_that_dies_needs_no_copy() {
    let pool = pool(Some(2));
    let mut lane = lane(&pool, 64);
    let fork = lane.fork();
    (20..64).for_each(|entry| assert!(lane.lower(entry, 64, 64)));
    assert_eq!(reclaim(&mut lane, 64).len(), 44);
    assert_eq!((lane.len(), lane.pages(), fork.len()), (20, 1, 64));
    assert_whole(&lane);
    assert_whole(&fork);
}

#[test]
fn a_step_that_failed_is_undone() {
    let pool = pool(Some(5));
    let mut cache = KvCache::new(&pool, 2, 2);
    let data: Vec<f32> = (0..40 * 8).map(|i| i as f32).collect();
    let rows = |count| KeyValueRows { data: &data, stride: 8, key_offset: 0, value_offset: 4, count };
    for layer in 0..2 {
        cache.append(LayerIdx(layer), rows(20), None).unwrap();
    }
    cache.advance(20);
    let before = cache.report();
    assert_eq!(cache.pages_wanted(20), 4);
    let error = cache.append(LayerIdx(0), rows(20), None).unwrap_err();
    assert!(matches!(error, CacheError::PoolExhausted { .. }));
    assert!(cache.lanes(LayerIdx(0)).iter().all(|lane| lane.len() == 20), "no group is ahead of another");
    cache.append(LayerIdx(0), rows(12), None).unwrap();
    cache.rewind(cache.next_position()).unwrap();
    let after = cache.report();
    assert_eq!((after.live_entries, after.logical_entries), (before.live_entries, before.logical_entries));
    assert_eq!((cache.next_position(), pool.pages_in_use()), (20, 4));
}

#[test]
fn groups_take_their_parts_of_a_fused_row() {
    let pool = pool(None);
    let mut cache = KvCache::new(&pool, 1, 2);
    // [query 3 | keys 2 x 2 | values 2 x 2], two tokens.
    let data: Vec<f32> = (0..22).map(|i| i as f32).collect();
    let rows = KeyValueRows { data: &data, stride: 11, key_offset: 3, value_offset: 7, count: 2 };
    cache.append(LayerIdx(0), rows, None).unwrap();
    for (group, lane) in cache.lanes(LayerIdx(0)).iter().enumerate() {
        for entry in lane.newest(2) {
            let key = (11 * entry + 3 + 2 * group) as f32;
            assert_eq!(lane.read_key(entry, 0).unwrap(), [key, key + 1.0]);
            assert_eq!(lane.read_value(entry, 0).unwrap(), [key + 4.0, key + 5.0]);
        }
    }
    assert_eq!(cache.views(LayerIdx(0)).len(), 2);
    let short = KeyValueRows { data: &data[..21], ..rows };
    assert!(matches!(cache.append(LayerIdx(0), short, None), Err(CacheError::Rows { .. })));
    let far = KeyValueRows { value_offset: usize::MAX, ..rows };
    assert!(matches!(cache.append(LayerIdx(0), far, None), Err(CacheError::Rows { .. })));
    assert!(matches!(
        cache.append(LayerIdx(1), rows, None),
        Err(CacheError::Bounds { limit: 1, got: 1, .. })
    ));
    assert!(cache.lanes(LayerIdx(1)).is_empty() && cache.lanes_mut(LayerIdx(1)).is_empty());
    assert!(cache.lanes(LayerIdx(0)).iter().all(|lane| lane.len() == 2));
}

#[test]
fn reports_add_up() {
    let pool = pool(None);
    let mut cache = KvCache::new(&pool, 1, 1);
    assert_eq!(cache.report(), KvReport::default());
    assert_eq!(cache.report().keep_ratio(), 1.0);
    let rows = KeyValueRows { data: &[0.0; 160], stride: 4, key_offset: 0, value_offset: 2, count: 40 };
    cache.append(LayerIdx(0), rows, None).unwrap();
    cache.advance(40);
    (0..30).for_each(|entry| {
        cache.lanes_mut(LayerIdx(0))[0].lower(entry, 40, 39);
    });
    let mut groups = Vec::new();
    assert_eq!(cache.reclaim(LayerIdx(0), 40, &mut |group, _| groups.push(group)).unwrap(), 30);
    assert_eq!(groups, [0; 30]);
    let report = cache.report();
    // An entry is 2 + 2 + 1 numbers of 4 bytes.
    assert_eq!((report.logical_entries, report.live_entries), (40, 10));
    assert_eq!((report.live_bytes, report.dense_bytes), (10 * (20 + 12), 40 * 16));
    assert!(report.held_bytes >= 32 * 20 + 120, "{report:?}");
    assert_eq!(report.keep_ratio(), 0.25);
    let sum: KvReport = [report, KvReport::default(), report].into_iter().sum();
    assert_eq!((sum.logical_entries, sum.live_bytes, sum.keep_ratio()), (80, 640, 0.25));
}

#[test]
fn a_lane_that_was_long_once_gives_its_metadata_back() {
    let pool = pool(None);
    let mut lane = lane(&pool, 100_000);
    (10..100_000).for_each(|entry| {
        lane.lower(entry, 100_000, 99_999);
    });
    assert_eq!(reclaim(&mut lane, 100_000).len(), 99_990);
    assert!(lane.held_bytes() < 2 * pool.layout().bytes() + 2000, "{}", lane.held_bytes());
    lane.clear();
    assert_eq!((lane.len(), lane.pages(), pool.pages_in_use()), (0, 0, 0));
    assert_whole(&lane);
}

#[test]
fn caches_travel_between_threads() {
    fn travels<T: Send + Sync>() {}
    travels::<KvCache>();
    travels::<Lane>();
    travels::<PagePool>();
}

/// The work of a step without a model: every layer appends, loses every third entry, and is reclaimed.
fn step(cache: &mut KvCache, tokens: usize) -> Result<(), CacheError> {
    let first = cache.next_position();
    let data = vec![0.0; 4 * tokens];
    for layer in (0..cache.layers()).map(LayerIdx) {
        let rows = KeyValueRows { data: &data, stride: 4, key_offset: 0, value_offset: 2, count: tokens };
        cache.append(layer, rows, None)?;
        let now = first + tokens as u32;
        for entry in (0..cache.lanes(layer)[0].len()).step_by(3) {
            cache.lanes_mut(layer)[0].lower(entry, now, now - 1);
        }
        cache.reclaim(layer, now, &mut |_, _| {})?;
    }
    cache.advance(tokens);
    Ok(())
}

#[test]
fn the_pages_wanted_for_a_step_are_enough_also_while_forks_share() {
    for tokens in [1, 5, 33] {
        let room = pool(None);
        let mut first = KvCache::new(&room, 3, 1);
        step(&mut first, 200).unwrap();
        let (shared, wanted) = (room.pages_in_use(), first.fork().pages_wanted(tokens));
        drop(first);
        // As many as were wanted, and not one more.
        let room = pool(Some(shared + wanted));
        let mut first = KvCache::new(&room, 3, 1);
        step(&mut first, 200).unwrap();
        let fork = first.fork();
        assert_eq!(first.pages_wanted(tokens), wanted);
        step(&mut first, tokens).unwrap();
        drop(fork);
        assert!(first.pages_wanted(tokens) < wanted, "alone it copies nothing");
        drop(first);
        assert_eq!(room.pages_in_use(), 0);
    }
}
