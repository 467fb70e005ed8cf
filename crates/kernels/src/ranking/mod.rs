//! Entries that are ranked on a device: what each is worth, which stay, and the others' lifetimes lowered.
//!
//! A score lies beside its entry, in the page's statistic, wherever it comes from: the mass of attention is added to it layer
//! by layer, as queries attend ([`DeviceRanking::observe`], [`DeviceRanking::observe_decoded`]); what keys say is written when
//! a choice is made ([`DeviceRanking::prune`]). That is once a step, for all layers, sequences and heads together, because no
//! layer's choice depends on another's: scores, selection, lifetimes, and the step's ordinary reclaim frees what they end.
//!
//! The choice is that of `crates/methods/src/ranked`, its twin on the processor: entries that the next query sees are
//! compared by score, NaN least, and of equals the later one stays. What floors hold comes first. The best of a lane are
//! found by the digits of a key of 64 bits that no two entries share, so nothing is sorted.

mod columns;
mod compactor;
mod cuda;
#[cfg(test)]
mod cuda_tests;
mod expected;
mod mass;
mod ordered;
mod score;
mod select;
mod told;

pub(crate) use columns::SOURCE as COLUMNS;
pub(crate) use compactor::SOURCE as COMPACTOR;
pub(crate) use cuda::KEYS;
pub use cuda::{DeviceRanking, RankingSettings, RankingSize};
pub(crate) use expected::SOURCE as EXPECTED;
pub use expected::Turns;
pub(crate) use mass::SOURCE as MASS;
pub(crate) use ordered::{LAG, POOL};
pub use score::Score;
pub(crate) use select::SOURCE as SELECT;
pub(crate) use told::SOURCE as TOLD;
