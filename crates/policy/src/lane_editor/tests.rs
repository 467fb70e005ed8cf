use dropcap_cache::{NEVER, PagePool};
use dropcap_kernels::{DType, PageLayout};
use proptest::prelude::*;

use super::*;
use crate::Stage;

/// A step whose tokens are those at positions `first..end`.
fn step(first: u32, end: u32) -> Span {
    let queries = (end - first) as usize;
    Span { first_row: 0, queries, first_position: first, stage: Stage::Prompt, budget: None }
}

fn lane(entries: usize) -> Lane {
    let pool = PagePool::new(PageLayout::new(1, 1, vec![2], DType::F32).unwrap(), None);
    let mut lane = Lane::new(&pool);
    let zeros = vec![0.0; entries];
    lane.append(0, entries, &zeros, &zeros, 1, None).unwrap();
    lane
}

#[test]
fn new_entries_are_the_last_ones() {
    let mut lanes = [lane(40), lane(33)];
    let lanes = LaneEditor::new(&mut lanes, &step(35, 40));
    assert_eq!((lanes.groups(), lanes.new_entries(0), lanes.new_entries(1)), (2, 35..40, 28..33));
}

#[test]
fn a_guard_within_a_guard_can_only_raise_the_floors() {
    let mut lanes = [lane(8)];
    let mut lanes = LaneEditor::new(&mut lanes, &step(0, 8));
    let mut outer = lanes.guarded(Floors { sinks: 2, recent: 3 });
    let mut inner = outer.guarded(Floors { sinks: 0, recent: 0 });
    assert!(!inner.lower(0, 1, 5, 5));
    assert!(inner.lower(0, 4, 5, 5));
    assert_eq!(inner.lane(0).expires_at()[4], 7);
    // Without the guard the same request is honoured.
    assert!(lanes.lower(0, 1, 5, 5));
}

#[test]
fn side_rows_go_to_the_new_entries_with_their_stride() {
    let mut lanes = [lane(3)];
    let mut lanes = LaneEditor::new(&mut lanes, &step(1, 3));
    lanes.write_side(0, 0, &[1.0, 2.0, 9.0, 3.0, 4.0], 3).unwrap();
    assert_eq!(lanes.lane(0).read_side(1, 0).unwrap(), [1.0, 2.0]);
    assert_eq!(lanes.lane(0).read_side(2, 0).unwrap(), [3.0, 4.0]);
    assert!(lanes.write_side(0, 1, &[0.0; 4], 2).is_err());
}

#[test]
fn no_lifetime_is_lowered_into_the_past_and_the_killer_stays_who_decided() {
    let mut lanes = [lane(20)];
    let mut lanes = LaneEditor::new(&mut lanes, &step(18, 20));
    assert!(lanes.lower(0, 3, 5, 4));
    assert_eq!((lanes.lane(0).expires_at()[3], lanes.lane(0).killers()[3]), (18, 4));
    let mut guarded = lanes.guarded(Floors { sinks: 0, recent: 2 });
    assert!(guarded.lower(0, 4, 5, 5));
    assert_eq!((lanes.lane(0).expires_at()[4], lanes.lane(0).killers()[4]), (18, 5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_lifetime_is_the_least_of_what_was_asked_within_the_floors(
        first in 0_u32..20, sinks in 0_u32..4, recent in 0_u32..12,
        asked in proptest::collection::vec((0_usize..20, 0_u32..60), 0..40),
    ) {
        let floors = Floors { sinks, recent };
        let mut lanes = [lane(20)];
        let mut lanes = LaneEditor::new(&mut lanes, &step(first, 20));
        let mut guarded = lanes.guarded(floors);
        let mut slow = [NEVER; 20];
        for (entry, end) in asked {
            let end_allowed = end.max(floors.of(entry as u32)).max(first);
            let changed = guarded.lower(0, entry, end, end);
            prop_assert_eq!(changed, end_allowed < slow[entry]);
            slow[entry] = slow[entry].min(end_allowed);
        }
        prop_assert_eq!(lanes.lane(0).expires_at(), slow);
    }
}
