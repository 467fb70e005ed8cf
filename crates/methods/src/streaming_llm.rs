//! `streaming_llm`: attention sinks and a window.

use std::ops::Range;
use std::sync::Arc;

use dropcap_policy::{Action, EvictionPolicy, Lanes, Observation, PolicyError, PromptCut, Rule, Span};

use crate::{Amount, Arguments, MAX_COUNT, Method, MethodError, Parameter, ParameterKind};

const NAME: &str = "streaming_llm";

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

Positions are not renumbered: a kept token stays where it was, unlike in the paper, which rotates keys by their \
place in the cache.",
    source: "Xiao, Tian, Chen, Han, Lewis 2023, arXiv 2309.17453; prefill_end follows NVIDIA/kvpress StreamingLLMPress",
    amount: Some(
        "tokens: the budget sinks + recent; a share: of the prompt, KEPT when it ends (only with when=prefill_end)",
    ),
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
    ],
    check: |arguments| StreamingLlm::from_arguments(arguments).map(drop),
    build: |arguments, _| Ok(Arc::new(StreamingLlm::from_arguments(arguments)?)),
};

/// Attention sinks and a window of recent tokens (Xiao et al. 2023, arXiv 2309.17453), without renumbering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamingLlm {
    /// First positions that are never dropped.
    pub sinks: u32,
    /// When entries leave.
    pub when: When,
}

/// When [`StreamingLlm`] drops entries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// At every query: it sees the sinks and the last `recent` tokens, itself included.
    Rolling {
        /// Newest tokens seen, at least 1 (0 acts as 1: a token sees itself).
        recent: u32,
    },
    /// Once, when the prompt ends.
    PrefillEnd(PromptBudget),
}

/// How much of a prompt of n tokens is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PromptBudget {
    /// So many tokens, sinks included.
    Tokens(u32),
    /// This share of n, in `(0, 1]`.
    Share(f64),
}

impl PromptBudget {
    /// Tokens kept of a prompt of n, sinks included: at least `sinks + 1` (or all n, if they are fewer), at most n.
    ///
    /// A share means the decimal number as it was written: `0.29` of 100 is 29, though the nearest binary
    /// fraction gives 28.999999999999996. kvpress computes `int(n * (1 - r))` in binary and so keeps one token
    /// less for some r, such as 0.9 of 10.
    #[must_use]
    pub fn kept(self, n: u32, sinks: u32) -> u32 {
        let wanted = match self {
            Self::Tokens(tokens) => tokens,
            Self::Share(share) => {
                let product = f64::from(n) * share;
                // Two roundings of half a unit in the last place each; `as` saturates and maps NaN to 0.
                (product * (1.0 + 4.0 * f64::EPSILON)) as u32
            }
        };
        wanted.max(sinks.saturating_add(1)).min(n)
    }
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

    fn roll(self, recent: u32, lanes: &mut Lanes<'_>) {
        for group in 0..lanes.groups() {
            for entry in lanes.new_entries(group) {
                let position = lanes.lane(group).positions()[entry];
                if position >= self.sinks {
                    // The first query that does not see the entry is the one that pushes it out.
                    let end = position.saturating_add(recent);
                    lanes.lower(group, entry, end, end);
                }
            }
        }
    }

    /// The positions between sinks and recent tokens of a prompt of n tokens.
    fn middle(self, budget: PromptBudget, n: u32) -> Range<u32> {
        let kept = budget.kept(n, self.sinks);
        // With kept = n this is the first position after the sinks: nothing lies between.
        self.sinks..n - kept.saturating_sub(self.sinks).min(n)
    }

    fn cut_prompt(self, budget: PromptBudget, span: &Span, lanes: &mut Lanes<'_>) {
        let n = span.next_position();
        let middle = self.middle(budget, n);
        for group in 0..lanes.groups() {
            for entry in 0..lanes.lane(group).len() {
                let position = lanes.lane(group).positions()[entry];
                if middle.contains(&position) {
                    // No query refused the entry; the prompt's last token is when the decision fell.
                    lanes.lower(group, entry, n, n - 1);
                }
            }
        }
    }
}

impl EvictionPolicy for StreamingLlm {
    fn rules(&self) -> Option<Vec<Rule>> {
        let own = *self;
        Some(vec![Rule::new(match self.when {
            When::Rolling { recent } => Action::Window { sinks: self.sinks, recent },
            When::PrefillEnd(budget) => {
                Action::PromptCut(PromptCut(Arc::new(move |n| own.middle(budget, n))))
            }
        })])
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [Lanes<'_>]) -> Result<(), PolicyError> {
        for (span, lanes) in seen.spans.iter().zip(lanes) {
            match self.when {
                When::Rolling { recent } => self.roll(recent, lanes),
                When::PrefillEnd(budget) if span.prompt_ends => self.cut_prompt(budget, span, lanes),
                When::PrefillEnd(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
