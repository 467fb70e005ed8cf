//! A policy's rules, followed as a device would, one entry at a time: the slow twin of what kernels do with them.

use dropcap_cache::Death;

use crate::{
    Action, EvictionPolicy, Floors, Granularity, Lanes, Observation, PolicyError, Rule, SideChannel, Span,
    VoteRule,
};

/// Decides as `rules` say; shape and side channels are those of the policy that gave them.
#[derive(Debug)]
pub(super) struct ByRules<'a> {
    pub(super) policy: &'a dyn EvictionPolicy,
    pub(super) rules: Vec<Rule>,
}

impl EvictionPolicy for ByRules<'_> {
    fn granularity(&self) -> Granularity {
        self.policy.granularity()
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        self.policy.side_channels()
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [Lanes<'_>]) -> Result<(), PolicyError> {
        // Each vote has a side channel, in the same order.
        let mut seen = *seen;
        for Rule { action, floors } in &self.rules {
            for (index, (span, lanes)) in seen.spans.iter().zip(lanes.iter_mut()).enumerate() {
                let died = seen.died_below.get(index).map_or(&[][..], Vec::as_slice);
                follow(action, *floors, &seen, span, died, lanes)?;
            }
            seen.first_channel += usize::from(matches!(action, Action::Vote(_)));
        }
        Ok(())
    }
}

fn follow(
    action: &Action,
    floors: Floors,
    seen: &Observation<'_>,
    span: &Span,
    died: &[Death],
    lanes: &mut Lanes<'_>,
) -> Result<(), PolicyError> {
    let mut lanes = lanes.guarded(floors);
    for group in 0..lanes.groups() {
        if let Action::Vote(rule) = action {
            vote(rule, seen, span, group, &mut lanes)?;
            continue;
        }
        let new = lanes.new_entries(group);
        for entry in 0..lanes.lane(group).len() {
            let position = lanes.lane(group).positions()[entry];
            let born = new.contains(&entry);
            let wished = match action {
                Action::Window { sinks, recent } if born && position >= *sinks => {
                    let end = position.saturating_add(*recent);
                    Some((end, end))
                }
                Action::Share { keep } if born => {
                    let before = f64::from(position);
                    let stays = ((before + 1.0) * keep).floor() > (before * keep).floor();
                    (!stays).then_some((position + 1, position + 1))
                }
                Action::PromptCut(cut) if span.prompt_ends => {
                    let n = span.next_position();
                    (cut.0)(n).contains(&position).then_some((n, n - 1))
                }
                Action::Inherit => {
                    let death = died.iter().find(|death| death.position == position);
                    death.map(|death| (death.expires_at, death.killer))
                }
                _ => None,
            };
            if let Some((end, killer)) = wished {
                lanes.lower(group, entry, end, killer);
            }
        }
    }
    Ok(())
}

/// Stores the key gates of the span's tokens and lets each token vote on every live entry before it.
fn vote(
    rule: &VoteRule,
    seen: &Observation<'_>,
    span: &Span,
    group: usize,
    lanes: &mut Lanes<'_>,
) -> Result<(), PolicyError> {
    let (width, rows) = (rule.width, &rule.layers[seen.layer]);
    let hidden = rows.both.len() / (2 * rule.heads * width);
    let head = if rule.heads == 1 { 0 } else { group };
    // Rows of W_q of all heads come first, then those of W_k.
    let gate = |query: usize, first: usize| -> Vec<f32> {
        let state = &seen.hidden[(span.first_row + query) * hidden..][..hidden];
        let row = |i: usize| &rows.both[((first + head) * width + i) * hidden..][..hidden];
        (0..width).map(|i| state.iter().zip(row(i)).map(|(x, w)| x * w).sum()).collect()
    };
    let keys: Vec<f32> = (0..span.queries).flat_map(|query| gate(query, rule.heads)).collect();
    lanes.write_side(group, seen.first_channel, &keys, width)?;
    for (n, position) in (0..span.queries).zip(span.first_position..) {
        let query = gate(n, 0);
        for entry in 0..lanes.lane(group).len() {
            let lane = lanes.lane(group);
            if lane.positions()[entry] >= position || lane.expires_at()[entry] <= position {
                continue;
            }
            let key = lane.read_side(entry, seen.first_channel)?;
            let dot: f32 = query.iter().zip(key).map(|(q, k)| q * k).sum();
            let keeps = dot / (width as f32).sqrt() + rows.bias[head] > 0.0;
            if !keeps && rule.decides {
                lanes.lower(group, entry, position, position);
            }
        }
    }
    Ok(())
}
