//! Rankings on the device against the processor's sums and against lists that are sorted.

mod mass;
mod select;

use crate::DType;
use crate::cuda::Specialisation;
use crate::cuda::testing::entries::Entry;
use crate::lifetimes::Floors;
use crate::ranking::{RankingSettings, Score};

/// Layers of the lanes, and the one that a test is about.
const LAYERS: usize = 2;
const LAYER: usize = 1;

fn shape(
    cache: DType,
    (query_heads, kv_heads): (usize, usize),
    groups: usize,
    head_dim: usize,
) -> Specialisation {
    Specialisation {
        weights: cache,
        cache,
        query_heads,
        kv_heads,
        groups,
        head_dim,
        hidden: 64,
        side_width: 0,
        statistics: 1,
    }
}

fn settings(score: Score) -> RankingSettings {
    RankingSettings { score, counted: Floors::default(), floors: Floors::default(), share: None }
}

/// The score beside an entry.
fn score_of(entry: &Entry) -> f32 {
    let [.., a, b, c, d] = entry.rows[..] else { panic!("an entry without a statistic") };
    f32::from_le_bytes([a, b, c, d])
}

fn set_score(entry: &mut Entry, score: f32) {
    let end = entry.rows.len();
    entry.rows[end - 4..].copy_from_slice(&score.to_le_bytes());
}
