//! What every policy must hold, checked on random ragged steps.
//!
//! [`check`] plays a small decoder: it appends tokens with made-up hidden states, keys and values, lets the policy
//! decide, shows it made-up queries as attention took them, and what layers changed, and reclaims. A method's tests call it; an engine never
//! needs it.

mod made_up;
mod play;
mod rules;
mod show;
mod within;

use dropcap_cache::CacheError;
use dropcap_kernels::{KernelError, Team};

use crate::{Budgets, Cadence, EvictionPolicy, Floors, PolicyError, Protected, Rules};
pub use play::Lifetimes;
use play::Plan;
use within::Within;

/// What to play: the shape of the model, and how much text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scene {
    /// Number of layers.
    pub layers: usize,
    /// KV heads g.
    pub kv_heads: usize,
    /// Hidden size c.
    pub hidden: usize,
    /// How many sequences share the steps; their prompts differ in length.
    pub sequences: usize,
    /// Tokens of the longest prompt.
    pub prompt: usize,
    /// Tokens decoded after each prompt, one per step.
    pub decoded: usize,
    /// Decides hidden states, lengths and chunks.
    pub seed: u64,
}

/// A rule of [`EvictionPolicy`] that was broken, or a decision that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The policy did what no policy may.
    #[error("{rule}: {detail}")]
    Rule {
        /// The rule, as a claim.
        rule: &'static str,
        /// Where it was broken.
        detail: String,
    },
    /// The policy failed.
    #[error("the policy failed: {0}")]
    Policy(#[from] PolicyError),
    /// The cache failed; the scene may be too large.
    #[error("the cache failed: {0}")]
    Cache(#[from] CacheError),
    /// The pages could not be laid out, or the threads not started.
    #[error("the scene could not be set: {0}")]
    Kernel(#[from] KernelError),
}

/// Plays `scene` under `policy` in several ways and compares.
///
/// Checked in every step: a lifetime never grows; no token ends before the query after its own; no lifetime is
/// lowered into the past; the policy writes no side channel and no statistic but its own. Checked over whole runs: lifetimes and
/// killers depend neither on the chunks (as far as the policy lets a prompt be cut) nor on which sequences share a step,
/// and generated tokens that go in again at once, as after a preemption, end as they did one by one; a layer-wise policy treats all lanes
/// of a layer alike; floors hold when the policy is protected; what a policy says as data is what it does; a budget that a
/// text sets itself leaves all that as it is, and the method's own is the same as none.
///
/// # Errors
/// The first violation found.
pub fn check(policy: &dyn EvictionPolicy, scene: &Scene) -> Result<(), Violation> {
    let team = Team::new(2)?;
    let lanes = lanes_of(policy, scene);
    let whole = play::play(policy, scene, lanes, Plan::OneByOne, Floors::default(), &team)?;
    for round in 0..3 {
        let chunked = play::play(policy, scene, lanes, Plan::Ragged { round }, Floors::default(), &team)?;
        same("chunking changes nothing", &whole, &chunked, |lane| lane)?;
    }
    let again = play::play(policy, scene, lanes, Plan::Replayed, Floors::default(), &team)?;
    same("generated tokens end alike when they go in again together", &whole, &again, |lane| lane)?;
    let token_by_token = play::play(policy, scene, lanes, Plan::TokenByToken, Floors::default(), &team)?;
    same("chunking changes nothing", &whole, &token_by_token, |lane| lane)?;
    if lanes == 1 && scene.kv_heads > 1 {
        let plan = Plan::Ragged { round: 3 };
        let heads = play::play(policy, scene, scene.kv_heads, plan, Floors::default(), &team)?;
        same("a layer-wise policy treats every lane of a layer alike", &heads, &whole, |_| 0)?;
    }
    let floors = Floors { sinks: 3, recent: 5 };
    for policy in [policy, &Protected::new(policy, floors.sinks, floors.recent)] {
        // Of those that act after attention, rules say but half.
        let Some(rules) = policy.rules().filter(|_| policy.needs().after == Cadence::Never) else { continue };
        let plan = Plan::Ragged { round: 5 };
        let as_data = Rules::new(rules.to_vec());
        let rule = "what a policy says as data is what it does";
        if (as_data.per_head(), as_data.side_channels()) != (policy.per_head(), policy.side_channels()) {
            let detail = "the rules need other lanes or other side channels".into();
            return Err(Violation::Rule { rule, detail });
        }
        let told = play::play(&as_data, scene, lanes, plan, Floors::default(), &team)?;
        let done = play::play(policy, scene, lanes, plan, Floors::default(), &team)?;
        same(rule, &done, &told, |lane| lane)?;
    }
    if let Some(Budgets { least, most }) = policy.budgets(scene.prompt) {
        for budget in [least, least.midpoint(most)] {
            let within = Within { policy, budget };
            let whole = play::play(&within, scene, lanes, Plan::OneByOne, Floors::default(), &team)?;
            for plan in [Plan::Ragged { round: 6 }, Plan::TokenByToken] {
                let cut = play::play(&within, scene, lanes, plan, Floors::default(), &team)?;
                same("chunking changes nothing under a text's own budget", &whole, &cut, |lane| lane)?;
            }
        }
        let longest = scene.prompt + scene.decoded;
        let budget = policy.budgets(longest).map_or(most, |budgets| budgets.most);
        let within = Within { policy, budget };
        let plan = Plan::Ragged { round: 7 };
        let bounded = play::play(&within, scene, lanes, plan, Floors::default(), &team)?;
        same("a budget that is the method's own changes nothing", &whole, &bounded, |lane| lane)?;
    }
    let protected = Protected::new(policy, floors.sinks, floors.recent);
    for plan in [Plan::Ragged { round: 4 }, Plan::TokenByToken] {
        play::play(&protected, scene, lanes, plan, floors, &team)?;
    }
    Ok(())
}

/// Plays `scene` once, each sequence alone with its prompt in one step, and gives every lifetime: what a slow twin
/// of a method is compared with. Sequence 0 has the longest prompt; there is one lane per layer, or one per KV head
/// for a policy that needs them.
///
/// # Errors
/// The first violation found.
pub fn lifetimes(policy: &dyn EvictionPolicy, scene: &Scene) -> Result<Lifetimes, Violation> {
    play::play(policy, scene, lanes_of(policy, scene), Plan::OneByOne, Floors::default(), &Team::new(1)?)
}

fn lanes_of(policy: &dyn EvictionPolicy, scene: &Scene) -> usize {
    if policy.per_head() { scene.kv_heads } else { 1 }
}

/// Compares two runs; `lane_of` says which lane of `right` a lane of `left` answers to.
fn same(
    rule: &'static str,
    left: &Lifetimes,
    right: &Lifetimes,
    lane_of: impl Fn(usize) -> usize,
) -> Result<(), Violation> {
    for (&(sequence, layer, lane, position), life) in left {
        let other = right.get(&(sequence, layer, lane_of(lane), position));
        if other != Some(life) {
            let detail = format!(
                "sequence {sequence}, layer {layer}, lane {lane}, position {position}: (expires_at, killer) is {life:?} in one run and {other:?} in the other"
            );
            return Err(Violation::Rule { rule, detail });
        }
    }
    Ok(())
}

#[cfg(test)]
mod after_tests;
#[cfg(test)]
mod tests;
