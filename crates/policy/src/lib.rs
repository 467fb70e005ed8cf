//! L3: the contracts between pruning methods and the engine, and the ways to combine them.
//!
//! A policy answers one question: which entries leave the cache, and when? Its answer is a *lifetime* per
//! entry (`expires_at`, the first query position that no longer sees it), and every rule of this crate is a
//! rule about lifetimes: they only ever fall, two policies combine by the smaller, protection is a floor, and
//! no token ends before the query after its own.
//!
//! Most methods say what they do as data: [`Rules`] carries it out on the processor, kernels on a device, and nothing
//! is said twice. Those that rank entries say that as data too ([`Ranking`]), beside their code. What neither can say is code
//! behind [`EvictionPolicy`] alone.
//!
//! There are two moments: before a layer attends ([`EvictionPolicy::decide`]: votes, windows), and after it, for methods
//! that look at attention ([`EvictionPolicy::after`]). The second is for those alone that declare it ([`Needs`]).
//!
//! A policy is immutable. What it must remember about an entry rides with the entry, as a [`SideChannel`] in the cache's
//! format or as a statistic, an f32 sum that may change; so memory of the method is moved, copied and freed together with
//! the key and the value.

mod both;
mod budgets;
pub mod conformance;
mod error;
mod eviction_policy;
mod keep_all;
mod lane_editor;
mod needs;
mod observation;
mod peak;
mod protected;
mod ranking;
mod rule;
mod rules;
mod side_channel;
mod similarity;
mod text_size;
mod turned;
mod turns;

pub use both::Both;
pub use budgets::Budgets;
pub use dropcap_kernels::lifetimes::Floors;
pub use dropcap_kernels::ranking::Score;
pub use error::PolicyError;
pub use eviction_policy::EvictionPolicy;
pub use keep_all::KeepAll;
pub use lane_editor::LaneEditor;
pub use needs::{Anchored, Cadence, Needs};
pub use observation::{Attended, Ended, Observation, Span, Stage};
pub use peak::Peak;
pub use protected::Protected;
pub use ranking::{Ranking, RankingBudget};
pub use rule::{Action, BirthGates, GateLayer, HeadSet, PromptBudget, PromptCut, Rule, RuleGates, VoteGates};
pub use rules::Rules;
pub use side_channel::SideChannel;
pub use similarity::cosine;
pub use text_size::TextSize;
pub use turned::Turned;
pub use turns::{Turn, turns};
