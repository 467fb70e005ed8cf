//! The pool gives memory back, reuses it, and keeps its limit whoever asks.

#![cfg(test)]

use std::collections::HashSet;
use std::sync::Barrier;
use std::thread;

use dropcap_cache::{CacheError, KvCache, KvReport, Lane, LayerIdx, PagePool};
use dropcap_kernels::{DType, PAGE_ENTRIES, PageLayout};

fn layout() -> PageLayout {
    PageLayout::new(2, 4, vec![3], DType::F16).unwrap()
}

/// A generator small enough to be read at a glance; tests need spread, not quality.
fn random(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize % below
}

fn fill(lane: &mut Lane, first_position: u32, count: usize) -> Result<(), CacheError> {
    let rows = vec![1.0; count * 8];
    lane.append(first_position, count, &rows, &rows, 8, None).map(|_| ())
}

#[test]
fn a_dropped_page_is_the_next_one_taken_and_is_zero_again() {
    let pool = PagePool::new(layout(), None);
    let mut lane = Lane::new(&pool);
    fill(&mut lane, 0, 1).unwrap();
    let first = page_address(lane.view().pages[0]);
    drop(lane);
    assert_eq!((pool.pages_in_use(), pool.retained_bytes()), (0, layout().bytes()));
    let page = pool.take().unwrap();
    assert_eq!(page_address(page.buffer()), first);
    assert!((0..page.buffer().len()).all(|i| page.buffer().get(i) == 0.0));
    assert_eq!(pool.retained_bytes(), 0);
}

#[test]
fn what_a_sequence_frees_another_one_uses() {
    let pool = PagePool::new(layout(), Some(8 * layout().bytes()));
    let (mut old, mut new) = (Lane::new(&pool), Lane::new(&pool));
    fill(&mut old, 0, 8 * PAGE_ENTRIES).unwrap();
    assert!(matches!(fill(&mut new, 0, 1), Err(CacheError::PoolExhausted { .. })));
    let before: HashSet<_> = old.view().pages.iter().map(|page| page_address(page)).collect();
    for entry in 0..4 * PAGE_ENTRIES {
        old.lower(2 * entry, 256, 256);
    }
    assert_eq!(old.reclaim(256, &mut |_| {}).unwrap(), 4 * PAGE_ENTRIES);
    assert_eq!((old.pages(), pool.pages_in_use(), pool.pages_available()), (4, 4, 4));
    fill(&mut new, 0, 4 * PAGE_ENTRIES).unwrap();
    assert!(new.view().pages.iter().all(|page| before.contains(&page_address(page))), "no new memory");
}

fn page_address(page: &dropcap_kernels::Buffer) -> usize {
    match page.elements() {
        dropcap_kernels::Elements::F16(all) => all.as_ptr().addr(),
        _ => 0,
    }
}

#[test]
fn free_memory_goes_back_to_the_allocator() {
    let pool = PagePool::new(layout(), None);
    let mut pages = pool.take_many(4000).unwrap();
    assert_eq!(pool.peak_bytes(), 4000 * layout().bytes());
    while pages.pop().is_some() {
        let bound = (pages.len() / 8).max(64) * layout().bytes();
        assert!(pool.retained_bytes() <= bound, "{} pages in use", pages.len());
    }
    assert_eq!(pool.retained_bytes(), 64 * layout().bytes());
    assert_eq!(pool.peak_bytes(), 4000 * layout().bytes());
}

#[test]
fn an_exhausted_pool_names_its_limit_and_others_go_on() {
    let pool = PagePool::new(layout(), Some(3 * layout().bytes() + 1));
    let (mut first, mut second) = (Lane::new(&pool), Lane::new(&pool));
    fill(&mut first, 0, 60).unwrap();
    fill(&mut second, 0, 1).unwrap();
    let error = fill(&mut first, 60, 40).unwrap_err();
    let bytes = layout().bytes();
    let expected = CacheError::PoolExhausted { limit: 3 * bytes + 1, held: 3 * bytes, wanted: 2 * bytes };
    assert_eq!(error, expected);
    assert!(error.to_string().contains(&(3 * bytes + 1).to_string()), "{error}");
    assert_eq!((first.len(), first.pages(), pool.pages_in_use()), (60, 2, 3), "nothing changed");
    fill(&mut first, 60, 4).unwrap();
    fill(&mut second, 1, 31).unwrap();
    drop(first);
    fill(&mut second, 32, 64).unwrap();
    assert_eq!(pool.pages_in_use(), 3);
}

#[test]
fn a_limit_below_a_page_and_an_impossible_number_are_errors() {
    let pool = PagePool::new(layout(), Some(layout().bytes() - 1));
    assert!(matches!(pool.take(), Err(CacheError::PoolExhausted { held: 0, .. })));
    assert!(matches!(pool.take_many(usize::MAX), Err(CacheError::PoolExhausted { .. })));
    assert_eq!((pool.pages_in_use(), pool.pages_available()), (0, 0));
    assert!(pool.take_many(0).unwrap().is_empty());
}

#[test]
fn the_limit_holds_under_concurrency() {
    let pages = 40;
    let pool = PagePool::new(layout(), Some(pages * layout().bytes()));
    let barrier = Barrier::new(8);
    let refused: usize = thread::scope(|scope| {
        let work = |seed: u64| {
            let (pool, barrier) = (&pool, &barrier);
            scope.spawn(move || {
                let mut state = seed;
                let mut refused = 0;
                barrier.wait();
                for _ in 0..400 {
                    let mut lane = Lane::new(pool);
                    let mut position = 0;
                    for _ in 0..12 {
                        let count = 1 + random(&mut state, 2 * PAGE_ENTRIES);
                        match fill(&mut lane, position, count) {
                            Ok(()) => position += count as u32,
                            Err(CacheError::PoolExhausted { held, .. }) => {
                                assert!(held <= pages * layout().bytes());
                                refused += 1;
                            }
                            Err(error) => panic!("{error}"),
                        }
                        assert_eq!(lane.len(), position as usize);
                        let usage = pool.usage();
                        assert!(usage.held_bytes + usage.retained_bytes <= pages * layout().bytes());
                    }
                }
                refused
            })
        };
        let threads: Vec<_> = (0..8).map(work).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(refused > 0, "the limit was never reached");
    assert_eq!((pool.pages_in_use(), pool.held_bytes()), (0, 0));
    assert!(pool.peak_bytes() <= pages * layout().bytes());
    fill(&mut Lane::new(&pool), 0, pages * PAGE_ENTRIES).unwrap();
}

#[test]
fn forks_that_write_at_the_same_time_see_only_their_own() {
    let pool = PagePool::new(layout(), None);
    let mut root = Lane::new(&pool);
    fill(&mut root, 0, 100).unwrap();
    thread::scope(|scope| {
        for seed in 0..4u32 {
            let mut fork = root.fork();
            scope.spawn(move || {
                let rows = vec![seed as f32 + 2.0; 8 * 50];
                fork.append(100, 50, &rows, &rows, 8, None).unwrap();
                (0..100).step_by(2).for_each(|entry| {
                    fork.lower(entry, 120, 120);
                });
                assert_eq!(fork.reclaim(150, &mut |_| {}).unwrap(), 50);
                for entry in 0..fork.len() {
                    let expected = if fork.positions()[entry] < 100 { 1.0 } else { seed as f32 + 2.0 };
                    assert_eq!(fork.read_key(entry, 1).unwrap(), [expected; 4]);
                }
            });
        }
    });
    assert!((0..100).all(|entry| root.read_value(entry, 0).unwrap() == [1.0; 4]));
    assert_eq!(pool.pages_in_use(), 4);
}

#[test]
fn ten_thousand_requests_leak_nothing() {
    let (layers, groups) = (2, 1);
    let pool = PagePool::new(layout(), Some(60 * layout().bytes()));
    let mut running: Vec<KvCache> = Vec::new();
    let (mut begun, mut exhausted, mut dead) = (0, 0, 0);
    let mut state = 7;
    let data = vec![0.5; 300 * 24];
    while begun < 10_000 || !running.is_empty() {
        if begun < 10_000 && running.len() < 12 {
            begun += 1;
            running.push(KvCache::new(&pool, layers, groups));
        }
        let which = random(&mut state, running.len());
        let cache = &mut running[which];
        let count = if cache.next_position() == 0 { 1 + random(&mut state, 300) } else { 1 };
        let rows =
            dropcap_cache::KeyValueRows { data: &data, stride: 24, key_offset: 8, value_offset: 16, count };
        let now = cache.next_position() + count as u32;
        let step = (0..layers).try_for_each(|layer| {
            let layer = LayerIdx(layer);
            cache.append(layer, rows, None)?;
            for lane in cache.lanes_mut(layer) {
                for entry in 0..lane.len() {
                    if random(&mut state, 4) == 0 {
                        lane.lower(entry, now, now - 1);
                    }
                }
            }
            dead += cache.reclaim(layer, now, &mut |_, _| {})?;
            Ok::<_, CacheError>(())
        });
        match step {
            Ok(()) => cache.advance(count),
            Err(CacheError::PoolExhausted { .. }) => {
                exhausted += 1;
                cache.rewind(cache.next_position()).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        if step.is_err() || random(&mut state, 6) == 0 {
            running.swap_remove(which);
        }
        let total: KvReport = running.iter().map(KvCache::report).sum();
        assert!(total.live_entries <= total.logical_entries);
    }
    assert!(exhausted > 0 && dead > 100_000, "{exhausted} exhausted, {dead} dead");
    assert_eq!((pool.pages_in_use(), pool.held_bytes()), (0, 0));
    assert!(pool.retained_bytes() <= 64 * layout().bytes());
    assert_eq!(running.iter().map(KvCache::report).sum::<KvReport>(), KvReport::default());
}
