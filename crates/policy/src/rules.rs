//! The policy that is nothing but rules: how the processor carries them out.

mod birth;
mod gate_rows;
mod vote;

use dropcap_cache::Death;

use crate::rule::recent_within;
use crate::{
    Action, Budgets, EvictionPolicy, LaneEditor, Observation, Peak, PolicyError, PromptCut, Rule,
    SideChannel, Span, Stage, TextSize,
};

/// A policy written as data: all rules act on every step, in their order.
///
/// This is the processor's interpreter; kernels carry out the same rules on a device. Each vote has one side channel,
/// in the order of the votes.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rules {
    /// The policy of these rules; none keep everything.
    #[must_use]
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// The gates of every vote.
    fn votes(&self) -> impl Iterator<Item = &crate::VoteGates> {
        self.rules.iter().filter_map(|rule| match &rule.action {
            Action::Vote { gates, .. } => Some(&**gates),
            _ => None,
        })
    }
}

impl EvictionPolicy for Rules {
    /// One gate for all KV heads needs no lane of their own for them; a rule for some heads does.
    fn per_head(&self) -> bool {
        self.rules.iter().any(|rule| match &rule.action {
            Action::Vote { gates, .. } if gates.heads() > 1 => true,
            Action::BirthGate { gates } if gates.heads() > 1 => true,
            _ => rule.heads.is_some(),
        })
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        self.votes().map(|gates| SideChannel { name: "key gate", width: gates.width() }).collect()
    }

    fn rules(&self) -> Option<&[Rule]> {
        Some(&self.rules)
    }

    fn peak(&self, text: TextSize) -> Peak {
        let peaks = self.rules.iter().map(|rule| rule.peak(text));
        peaks.fold(Peak::exactly(text.tokens), |all, one| all.and(one, text.tokens))
    }

    fn peak_in(&self, text: TextSize, layer: usize, head: usize) -> Peak {
        let peaks = self.rules.iter().map(|rule| rule.peak_in(text, layer, head));
        peaks.fold(Peak::exactly(text.tokens), |all, one| all.and(one, text.tokens))
    }

    fn budgets(&self, tokens: usize) -> Option<Budgets> {
        self.rules.iter().map(|rule| rule.budgets(tokens)).fold(None, Budgets::and)
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        let mut seen = *seen;
        for Rule { action, floors, heads } in &self.rules {
            // Where some heads keep everything, a budget of all lanes means nothing.
            let own = |span: &Span| span.budget.filter(|_| heads.is_none());
            let among = heads.as_ref().map(|heads| heads.of(seen.layer));
            let mut guarded: Vec<_> =
                lanes.iter_mut().map(|lanes| lanes.guarded(*floors).among(among)).collect();
            let spans = seen.spans.iter().zip(&mut guarded);
            match action {
                Action::Window { sinks, recent } => {
                    spans.for_each(|(span, lanes)| {
                        let recent = recent_within(*sinks, *recent, own(span));
                        at_birth(lanes, |position| {
                            (position >= *sinks).then(|| position.saturating_add(recent))
                        });
                    });
                }
                Action::WindowBehind { sinks, recent } => {
                    spans.for_each(|(span, lanes)| {
                        window_behind(*sinks, recent_within(*sinks, *recent, own(span)), span, lanes);
                    });
                }
                Action::Share { keep } => {
                    let end = |position: u32| (!stays(position, *keep)).then(|| position.saturating_add(1));
                    spans.for_each(|(_, lanes)| at_birth(lanes, end));
                }
                Action::Vote { gates, decides } => {
                    vote::vote(gates, *decides, &seen, &mut guarded)?;
                    seen.first_channel += 1;
                }
                Action::BirthGate { gates } => birth::judge(gates, &seen, &mut guarded)?,
                Action::Inherit => {
                    seen.died_below.iter().zip(&mut guarded).for_each(|(died, lanes)| inherit(died, lanes));
                }
                Action::PromptCut(cut) => spans
                    .filter(|(span, _)| span.prompt_ends())
                    .for_each(|(span, lanes)| cut_prompt(*cut, own(span), span, lanes)),
            }
        }
        Ok(())
    }
}

/// Lets every new entry end where `end` says for its position, if it does. The first query that does not see an entry
/// is the one that pushes it out.
fn at_birth(lanes: &mut LaneEditor<'_>, end: impl Fn(u32) -> Option<u32>) {
    for group in 0..lanes.groups() {
        for entry in lanes.new_entries(group) {
            if let Some(end) = end(lanes.lane(group).positions()[entry]) {
                lanes.lower(group, entry, end, end);
            }
        }
    }
}

/// From the end of a prompt on, a window.
fn window_behind(sinks: u32, recent: u32, span: &Span, lanes: &mut LaneEditor<'_>) {
    let end = |position: u32| (position >= sinks).then(|| position.saturating_add(recent));
    match span.stage {
        Stage::Prompt => {}
        Stage::Behind => at_birth(lanes, end),
        Stage::PromptEnd => {
            let n = span.next_position();
            for group in 0..lanes.groups() {
                for entry in 0..lanes.lane(group).len() {
                    match end(lanes.lane(group).positions()[entry]) {
                        // As where a prompt is cut: its last token decided.
                        Some(end) if end <= n => drop(lanes.lower(group, entry, n, n - 1)),
                        Some(end) => drop(lanes.lower(group, entry, end, end)),
                        None => {}
                    }
                }
            }
        }
    }
}

/// Whether `floor(n keep)` steps up at this position.
fn stays(position: u32, keep: f64) -> bool {
    let before = f64::from(position);
    ((before + 1.0) * keep).floor() > (before * keep).floor()
}

/// Ends the entries of the tokens in `died` when they ended in the layer below.
fn inherit(died: &[Death], lanes: &mut LaneEditor<'_>) {
    if died.is_empty() {
        return;
    }
    let mut by_position: Vec<&Death> = died.iter().collect();
    by_position.sort_unstable_by_key(|death| death.position);
    for group in 0..lanes.groups() {
        for entry in 0..lanes.lane(group).len() {
            let position = lanes.lane(group).positions()[entry];
            if let Ok(found) = by_position.binary_search_by_key(&position, |death| death.position) {
                let death = by_position[found];
                lanes.lower(group, entry, death.expires_at, death.killer);
            }
        }
    }
}

fn cut_prompt(cut: PromptCut, own: Option<u32>, span: &Span, lanes: &mut LaneEditor<'_>) {
    let n = span.next_position();
    let dropped = cut.dropped(n, own);
    for group in 0..lanes.groups() {
        for entry in 0..lanes.lane(group).len() {
            if dropped.contains(&lanes.lane(group).positions()[entry]) {
                // No query refused the entry; the prompt's last token is when the decision fell.
                lanes.lower(group, entry, n, n - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests;
