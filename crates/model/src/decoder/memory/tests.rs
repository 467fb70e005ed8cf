use dropcap_cache::PagePool;
use dropcap_kernels::{DType, PageLayout};
use proptest::prelude::*;

use super::*;

/// A lane that holds these positions.
fn lane(pool: &PagePool, positions: &[u32]) -> Lane {
    let mut lane = Lane::new(pool);
    for &position in positions {
        lane.append(position, 1, &[0.0], &[0.0], 1, None).unwrap();
    }
    lane
}

fn death((position, expires_at): (u32, u32)) -> Death {
    Death { position, expires_at: position + 1 + expires_at, killer: position }
}

proptest! {
    #[test]
    fn deaths_that_go_up_are_those_of_tokens_that_no_lane_holds(
        lanes in prop::collection::vec(prop::collection::vec(0u32..60, 0..40), 1..4),
        deaths in prop::collection::vec((0u32..60, 0u32..5), 0..60),
        // Far from the beginning, as in a long text.
        shift in prop::sample::select(vec![0, 1_000_000]),
    ) {
        let pool = PagePool::new(PageLayout::new(1, 1, Vec::new(), DType::F32).unwrap(), None);
        let shifted = |positions: &Vec<u32>| positions.iter().map(|at| at + shift).collect::<Vec<u32>>();
        let lanes: Vec<Lane> = lanes.iter().map(|positions| lane(&pool, &shifted(positions))).collect();
        let mut died: Vec<Death> = deaths.iter().map(|&(at, ends)| death((at + shift, ends))).collect();
        let mut expected = died.clone();
        if lanes.len() > 1 {
            expected.retain(|death| lanes.iter().all(|lane| !lane.positions().contains(&death.position)));
            expected.sort_by_key(|death| (death.position, Reverse(death.expires_at)));
            expected.dedup_by_key(|death| death.position);
        }
        keep_dead_everywhere(&lanes, &mut died);
        prop_assert_eq!(died, expected);
    }
}
