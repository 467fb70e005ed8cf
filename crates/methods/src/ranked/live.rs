//! Which entries of a lane are looked at.

use dropcap_cache::Lane;

/// Entries and their positions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Live {
    /// Their numbers in the lane.
    pub(crate) entries: Vec<usize>,
    /// `[e]`
    pub(crate) positions: Vec<u32>,
}

impl Live {
    /// All, as they lie.
    pub(super) fn all(lane: &Lane) -> Self {
        Self { entries: (0..lane.len()).collect(), positions: lane.positions().to_vec() }
    }

    /// Positions of the entries that any of a layer's lanes has, in the order of the lane where there is but one.
    pub(super) fn all_positions(lanes: &[Self]) -> Vec<u32> {
        if let [all] = lanes {
            return all.positions.clone();
        }
        let mut all: Vec<u32> = lanes.iter().flat_map(|live| &live.positions).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Those that the query at `next` sees, tokens that come later left out; `ordered` sorts them by position.
    pub(super) fn of(lane: &Lane, next: u32, ordered: bool) -> Self {
        let lives = lane.positions().iter().zip(lane.expires_at()).enumerate();
        let seen = lives.filter(|&(_, (&position, &expires_at))| position < next && next < expires_at);
        let mut pairs: Vec<(u32, usize)> = seen.map(|(entry, (&position, _))| (position, entry)).collect();
        if ordered {
            pairs.sort_unstable();
        }
        let (positions, entries) = pairs.into_iter().unzip();
        Self { entries, positions }
    }
}
