//! Rankings on the device against the processor's sums and against lists that are sorted.

mod compactor;
mod drawn;
mod mass;
mod select;
mod softened;

use crate::cuda::Specialisation;
use crate::cuda::testing::entries::Entry;
use crate::lifetimes::Floors;
use crate::ranking::{RankingSettings, Score};
use crate::testing::Random;
use crate::{CodeBits, DType};

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
        codes: None,
        query_heads,
        kv_heads,
        groups,
        head_dim,
        hidden: 64,
        side_width: 0,
        statistics: 1,
    }
}

/// The same with codes in the place of numbers, and values of so many bits.
fn coded(bits: CodeBits, shape: Specialisation) -> Specialisation {
    Specialisation { codes: Some(bits), ..shape }
}

fn settings(score: Score) -> RankingSettings {
    RankingSettings { score, counted: Floors::default(), floors: Floors::default(), share: None }
}

/// The only number beside an entry.
fn score_of(entry: &Entry) -> f32 {
    let [.., a, b, c, d] = entry.rows[..] else { panic!("an entry without a statistic") };
    f32::from_le_bytes([a, b, c, d])
}

fn set_score(entry: &mut Entry, score: f32) {
    let end = entry.rows.len();
    entry.rows[end - 4..].copy_from_slice(&score.to_le_bytes());
}

/// One of the two numbers beside an entry.
fn statistic_of(entry: &Entry, statistic: usize) -> f32 {
    let at = entry.rows.len() - 8 + 4 * statistic;
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&entry.rows[at..at + 4]);
    f32::from_le_bytes(bytes)
}

fn set_statistic(entry: &mut Entry, statistic: usize, number: f32) {
    let at = entry.rows.len() - 8 + 4 * statistic;
    entry.rows[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

/// The bits of a place: each step of SplitMix64 is a generator's first number.
fn noise_at(seed: u64, (layer, head): (usize, usize), query: u32, entry: u32) -> u64 {
    let mixed = |state| Random(state).next();
    let parts = [layer as u64, head as u64, u64::from(query) << 32 | u64::from(entry)];
    parts.iter().fold(mixed(seed), |state, part| mixed(state ^ part))
}

fn uniform(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

fn gumbel(bits: u64) -> f32 {
    -(-uniform(bits).ln()).ln() as f32
}
