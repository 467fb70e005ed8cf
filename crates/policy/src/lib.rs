//! L3: the contracts between pruning methods and the engine, and the ways to combine them.
//!
//! A policy answers one question: which entries leave the cache, and when? Its answer is a *lifetime* per
//! entry (`expires_at`, the first query position that no longer sees it), and every rule of this crate is a
//! rule about lifetimes: they only ever fall, two policies combine by the smaller, protection is a floor, and
//! no token ends before the query after its own.
//!
//! A policy is immutable. What it must remember about an entry rides with the entry as a [`SideChannel`], so
//! memory of the method is moved, copied and freed together with the key and the value.

mod both;
pub mod conformance;
mod error;
mod eviction_policy;
mod granularity;
mod keep_all;
mod lanes;
mod observation;
mod protected;
mod rule;
mod side_channel;

pub use both::Both;
pub use error::PolicyError;
pub use eviction_policy::EvictionPolicy;
pub use dropcap_kernels::lifetimes::Floors;
pub use granularity::Granularity;
pub use keep_all::KeepAll;
pub use lanes::Lanes;
pub use observation::{Observation, Span};
pub use protected::Protected;
pub use rule::{Action, GateRows, PromptCut, Rule, VoteRule};
pub use side_channel::SideChannel;
