//! The life of entries on a device: lanes grow with a step's tokens, prompts are cut, and what no later query sees is
//! freed.
//!
//! The contract is that of `Lane` in the cache crate, its twin on the CPU: a lane's entries are dense, entry i is slot
//! `i % 32` of its page `i / 32`, e entries hold `ceil(e / 32)` pages and never more, a lifetime never grows. A step
//! grows its lanes first and reclaims last; both are part of a recorded decode step, so nothing in their launches
//! depends on how long lanes are.
//!
//! Pages come from a stack that all lanes share. Within one launch pages are only taken or only given back: the order
//! in which blocks do it decides which page a lane gets, and nothing else.

mod cuda;
#[cfg(test)]
mod cuda_tests;
mod floors;
mod inherit;
#[cfg(test)]
mod inherit_tests;
mod lifetime;
mod status;

pub use cuda::{DeathRecord, Deaths, DeviceLifetimes, LaneLifetimes, PromptCut};
pub(crate) use cuda::{GROW_SOURCE, RECLAIM_SOURCE};
pub use floors::Floors;
pub use inherit::DeviceInherit;
pub(crate) use inherit::SOURCE as INHERIT_SOURCE;
pub use lifetime::{Lifetime, NEVER};
pub use status::{CacheOverflow, SpanStatus, StepStatus};
