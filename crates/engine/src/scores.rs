//! The scores of the votes that killed entries, for a trace.
//!
//! A policy's votes leave behind who killed an entry, and nothing else: that is all that decoding needs, and it costs
//! nothing. Where a trace asks for more, this policy stands around the one that decides, looks which entries it has
//! condemned in this step, and computes those few scores again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dropcap_kernels::PAGE_ENTRIES;
use dropcap_policy::{
    Action, Attended, Budgets, EvictionPolicy, LaneEditor, Needs, Observation, Peak, PolicyError,
    SideChannel, Span, TextSize,
};

/// Where an entry is: index of its sequence in the step, layer, lane within the layer, position.
pub(crate) type Entry = (usize, usize, usize, u32);

/// Scores of fatal votes, from a policy to the trace of the engine that runs it.
#[derive(Debug, Clone, Default)]
pub struct VoteScores(Arc<Mutex<HashMap<Entry, f32>>>);

impl VoteScores {
    /// `policy`, with the scores of its fatal votes. It decides the same, as code: on the processor alone.
    #[must_use]
    pub fn of(policy: Arc<dyn EvictionPolicy>) -> (Arc<dyn EvictionPolicy>, Self) {
        let scores = Self::default();
        let mut votes = Vec::new();
        for rule in policy.rules().into_iter().flatten() {
            if let Action::Vote { gates, .. } = &rule.action {
                let layers = gates.layers().iter().map(|layer| (layer.rows(), layer.bias().to_vec()));
                votes.push(Vote { width: gates.width(), heads: gates.heads(), layers: layers.collect() });
            }
        }
        (Arc::new(Scored { policy, votes, scores: scores.clone() }), scores)
    }

    /// The scores of the step that has just run.
    pub(crate) fn take(&self) -> HashMap<Entry, f32> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A policy that tells what its fatal votes scored.
#[derive(Debug)]
struct Scored {
    policy: Arc<dyn EvictionPolicy>,
    votes: Vec<Vote>,
    scores: VoteScores,
}

/// The gates of one vote.
#[derive(Debug)]
struct Vote {
    width: usize,
    heads: usize,
    /// Per layer W_q of all gate heads above W_k of all, f32 `[2 G r, c]`, and the biases `[G]`.
    layers: Vec<(Vec<f32>, Vec<f32>)>,
}

impl EvictionPolicy for Scored {
    fn per_head(&self) -> bool {
        self.policy.per_head()
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        self.policy.side_channels()
    }

    fn needs(&self) -> Needs {
        self.policy.needs()
    }

    fn peak(&self, text: TextSize) -> Peak {
        self.policy.peak(text)
    }

    fn budgets(&self, tokens: usize) -> Option<Budgets> {
        self.policy.budgets(tokens)
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.policy.after(seen, lanes)
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.policy.decide(seen, lanes)?;
        let mut scores = self.scores.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, (span, lanes)) in seen.spans.iter().zip(lanes.iter()).enumerate() {
            let queries = span.first_position..span.next_position();
            for group in 0..lanes.groups() {
                let lane = lanes.lane(group);
                let entries = lane.positions().iter().zip(lane.killers()).enumerate();
                for (entry, (&position, &killer)) in
                    entries.filter(|(_, (_, killer))| queries.contains(*killer))
                {
                    if let Some(score) = self.refusal(seen, span, lanes, group, entry, killer)? {
                        scores.insert((index, seen.layer, group, position), score);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Scored {
    /// The lowest score that the killer of an entry gave it, if that refused it: a window may have ended it as well.
    fn refusal(
        &self,
        seen: &Observation<'_>,
        span: &Span,
        lanes: &LaneEditor<'_>,
        group: usize,
        entry: usize,
        killer: u32,
    ) -> Result<Option<f32>, PolicyError> {
        let view = lanes.lane(group).view();
        let row = span.first_row + (killer - span.first_position) as usize;
        let mut lowest: Option<f32> = None;
        for (channel, vote) in self.votes.iter().enumerate() {
            let Some((gates, biases)) = vote.layers.get(seen.layer) else { continue };
            let head = if vote.heads == 1 { 0 } else { group };
            let (page, slot) = (entry / PAGE_ENTRIES, entry % PAGE_ENTRIES);
            let key_gate = view.layout.read_side(view.pages[page], slot, seen.first_channel + channel)?;
            let hidden = gates.len() / (2 * vote.heads * vote.width);
            let state = &seen.hidden[row * hidden..][..hidden];
            let query = gates[head * vote.width * hidden..].chunks_exact(hidden);
            let products = query.zip(&key_gate).map(|(row, &key)| key * dot(row, state));
            let score = products.sum::<f32>() / (vote.width as f32).sqrt() + biases[head];
            if score <= 0.0 {
                lowest = Some(lowest.map_or(score, |other| other.min(score)));
            }
        }
        Ok(lowest)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
