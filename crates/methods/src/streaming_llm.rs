//! `streaming_llm`: attention sinks and a window.

use std::sync::Arc;

use dropcap_policy::{Action, Anchored, PromptBudget, PromptCut, Rule, Rules, Turned};

use crate::method::Ranks;
use crate::{Amount, Arguments, MAX_COUNT, Method, MethodError, Parameter, ParameterKind};

pub(crate) const NAME: &str = "streaming_llm";
/// The parameter that says what keys are turned by.
pub(crate) const POSITIONS: &str = "positions";

pub(crate) const METHOD: Method = Method {
    name: NAME,
    summary: "Keeps the first tokens (attention sinks) and the most recent ones.",
    details: "\
With `when=rolling`, every query sees the first `sinks` tokens and the last `recent` tokens, itself included: an \
entry at position p >= sinks expires at p + recent. After any query at most sinks + recent entries are live.

With `when=prefill_end`, the prompt is processed densely and pruned once, when it ends: of n tokens the first \
`sinks` and the newest n_kept - sinks stay, the others expire at n, and what follows is kept. A token budget keeps \
n_kept = min(budget, n); a share keeps n_kept = floor(n * share), taken of the decimal number as written, and never \
less than sinks + 1, so that a short prompt loses nothing. In a conversation every further prompt is cut again, by \
its position in the whole conversation.

With `positions=text` a kept token stays where it was. With `positions=cache`, as in the paper, keys are turned by their place in \
the cache. A window's keys are as far from a query either way; so with `when=rolling` it is the sinks that move on with every query, \
and find themselves right before the window. With `when=prefill_end` all that stays is turned once, when the prompt ends, and what follows goes \
on from n_kept, as `key_rerotation` does. It needs rotary embeddings and stands alone. The text is as long \
as the model's positions allow all the same.

Costs: nothing beyond the cache; no query, key or attention is looked at. With positions of the cache a rolling window keeps the keys of \
the sinks a second time, in f32 or on a GPU as the cache has them, and writes them anew for every query; prompts attend query by query \
behind the first window, and on a GPU go through all layers so.",
    source: "Xiao, Tian, Chen, Han, Lewis 2023, arXiv 2309.17453; prefill_end follows NVIDIA/kvpress StreamingLLMPress, with positions=cache within KeyRerotationPress",
    amount: Some(
        "tokens: the budget sinks + recent; a share: of the prompt, KEPT when it ends (only with when=prefill_end)",
    ),
    ranks: Ranks::No,
    parameters: &[
        Parameter {
            name: "sinks",
            kind: ParameterKind::Count { least: 0, most: MAX_COUNT },
            default: "4",
            help: "first tokens that are never dropped",
        },
        Parameter {
            name: "recent",
            kind: ParameterKind::Count { least: 1, most: MAX_COUNT },
            default: "508",
            help: "newest tokens that are kept, the query included; with a budget it is budget - sinks",
        },
        Parameter {
            name: "when",
            kind: ParameterKind::Choice(&["rolling", "prefill_end"]),
            default: "rolling",
            help: "drop tokens as they leave the window, or once when the prompt ends",
        },
        Parameter {
            name: POSITIONS,
            kind: ParameterKind::Choice(&["text", "cache"]),
            default: "text",
            help: "turn keys by their place in the text, or by their place in the cache",
        },
    ],
    check: |arguments| StreamingLlm::from_arguments(arguments).map(drop),
    build: |arguments, _| {
        let policy = StreamingLlm::from_arguments(arguments)?;
        let (rules, sinks) = (policy.rules(), policy.sinks);
        Ok(match policy.when {
            _ if arguments.text(POSITIONS)? == "text" => Arc::new(rules),
            When::Rolling { recent } => Arc::new(Turned::always(rules, Anchored { sinks, recent })),
            When::PrefillEnd(_) => Arc::new(Turned::once(rules)),
        })
    },
};

/// Attention sinks and a window of recent tokens (Xiao et al. 2023, arXiv 2309.17453), without renumbering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StreamingLlm {
    /// First positions that are never dropped.
    pub(crate) sinks: u32,
    /// When entries leave.
    pub(crate) when: When,
}

/// When [`StreamingLlm`] drops entries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum When {
    /// At every query: it sees the sinks and the last `recent` tokens, itself included.
    Rolling {
        /// Newest tokens seen, at least 1 (0 acts as 1: a token sees itself).
        recent: u32,
    },
    /// Once, when the prompt ends.
    PrefillEnd(PromptBudget),
}

impl StreamingLlm {
    /// The policy that the arguments describe.
    ///
    /// # Errors
    /// A budget that sinks and recent exceed or contradict; a share without a prompt's end to take it of.
    pub(crate) fn from_arguments(arguments: &Arguments<'_>) -> Result<Self, MethodError> {
        let (sinks, recent) = (arguments.count("sinks")?, arguments.count("recent")?);
        let recent_given = arguments.is_given("recent");
        let rolling = arguments.text("when")? == "rolling";
        let refused = |what: String, advice: &str| MethodError::Contradiction {
            method: NAME,
            what,
            advice: advice.into(),
        };
        let when = match arguments.amount() {
            Some(Amount::Share(share)) if rolling => {
                let what = format!(
                    "a share (@{share:?}) is taken of a prompt, and when=rolling does not wait for its end"
                );
                return Err(refused(what, "write when=prefill_end, or a budget in tokens such as @2048"));
            }
            Some(Amount::Share(share)) if recent_given => {
                let what = format!("recent={recent} and the share @{share:?} both say how much is kept");
                return Err(refused(what, "give one of them"));
            }
            Some(Amount::Share(share)) => When::PrefillEnd(PromptBudget::Share(share)),
            Some(Amount::Tokens(budget)) => {
                if recent_given && sinks.saturating_add(recent) != budget {
                    let sum = sinks.saturating_add(recent);
                    let what =
                        format!("sinks={sinks} + recent={recent} is {sum}, and the budget is @{budget}");
                    return Err(refused(what, "give recent or the budget, not both"));
                }
                if budget <= sinks {
                    let what =
                        format!("sinks={sinks} leave no room for a recent token in the budget @{budget}");
                    return Err(refused(
                        what,
                        &format!("allowed is a budget from {} on", sinks.saturating_add(1)),
                    ));
                }
                if rolling {
                    When::Rolling { recent: budget - sinks }
                } else {
                    When::PrefillEnd(PromptBudget::Tokens(budget))
                }
            }
            None if rolling => When::Rolling { recent },
            None => When::PrefillEnd(PromptBudget::Tokens(sinks.saturating_add(recent))),
        };
        Ok(Self { sinks, when })
    }

    /// The policy.
    pub(crate) fn rules(self) -> Rules {
        let Self { sinks, when } = self;
        Rules::new(vec![Rule::new(match when {
            When::Rolling { recent } => Action::Window { sinks, recent },
            When::PrefillEnd(budget) => Action::PromptCut(PromptCut { sinks, budget }),
        })])
    }
}

#[cfg(test)]
mod tests;
