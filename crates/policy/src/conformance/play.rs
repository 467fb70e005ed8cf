//! A decoder of made-up tokens: append, decide, look at attention, reclaim.

use std::collections::BTreeMap;

use dropcap_cache::{Death, KvCache, Lane, LayerIdx, PagePool};
use dropcap_kernels::{DType, PageLayout, Team};

use super::made_up::{HEAD_DIM, mix};
use super::rules::Before;
use super::show::{Shown, show};
use super::{Scene, Violation};
use crate::{Ended, EvictionPolicy, Floors, LaneEditor, Needs, Observation, Span, Stage, TextSize};

/// `(expires_at, killer)` of every entry that ever was, by sequence, layer, lane and position.
pub type Lifetimes = BTreeMap<(usize, usize, usize, u32), (u32, u32)>;

/// How the tokens are cut into steps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// Each sequence alone, its prompt in one step.
    OneByOne,
    /// Each sequence alone, its prompt in one step and what follows in another.
    Replayed,
    /// Every sequence alone, token by token where the policy lets it: the fewest entries that a lane can hold.
    TokenByToken,
    /// All sequences together, prompts in random chunks; every round cuts differently.
    Ragged {
        /// Which of the random ways.
        round: u64,
    },
}

/// Plays the whole scene with `lanes` lanes per layer, holding the policy to `floors`, and gives every lifetime.
pub(super) fn play(
    policy: &dyn EvictionPolicy,
    scene: &Scene,
    lanes: usize,
    plan: Plan,
    floors: Floors,
    team: &Team,
) -> Result<Lifetimes, Violation> {
    // A channel and a statistic before and after the policy's own, to see whether it stays within its own.
    let own = policy.side_channels();
    let widths: Vec<usize> =
        [1].into_iter().chain(own.iter().map(|channel| channel.width)).chain([1]).collect();
    let heads = (scene.kv_heads / lanes).max(1);
    let needs = policy.needs();
    let layout = PageLayout::new(heads, HEAD_DIM, widths, DType::F32)?;
    let pool = PagePool::with_statistics(layout, None, needs.statistics + 2);
    let sequences: Vec<Sequence> = (0..scene.sequences)
        .map(|index| {
            let shorter =
                if index == 0 { 0 } else { mix(scene.seed, &[index]) as usize % scene.prompt.max(1) };
            let prompt = (scene.prompt - shorter).max(1);
            Sequence { index, cache: KvCache::new(&pool, scene.layers, lanes), prompt, done: 0 }
        })
        .collect();
    let mut stage = Play {
        policy,
        needs,
        scene,
        floors,
        team,
        sequences,
        lifetimes: Lifetimes::new(),
        fullest: BTreeMap::new(),
    };
    match plan {
        Plan::OneByOne => {
            for index in 0..scene.sequences {
                let prompt = stage.sequences[index].prompt;
                stage.step(&[(index, prompt)])?;
                for _ in 0..scene.decoded {
                    stage.step(&[(index, 1)])?;
                }
            }
        }
        Plan::Replayed => {
            for index in 0..scene.sequences {
                let prompt = stage.sequences[index].prompt;
                stage.step(&[(index, prompt)])?;
                if scene.decoded > 0 {
                    stage.step(&[(index, scene.decoded)])?;
                }
            }
        }
        Plan::TokenByToken => {
            for index in 0..scene.sequences {
                while stage.sequences[index].done < stage.sequences[index].prompt + scene.decoded {
                    let tokens = stage.sequences[index].cut(needs, 1);
                    stage.step(&[(index, tokens)])?;
                }
            }
        }
        Plan::Ragged { round } => {
            let mut number = 0;
            while stage.sequences.iter().any(|sequence| sequence.done < sequence.prompt + scene.decoded) {
                let shares = stage.random_shares(round, number);
                stage.step(&shares)?;
                number += 1;
            }
        }
    }
    stage.finish()
}

/// One sequence and its cache.
pub(super) struct Sequence {
    pub(super) index: usize,
    pub(super) cache: KvCache,
    prompt: usize,
    done: usize,
}

impl Sequence {
    /// So many tokens, or as many as the policy needs together.
    fn cut(&self, needs: Needs, wanted: usize) -> usize {
        match needs.cut(self.prompt, self.done, wanted) {
            0 => self.prompt - self.done,
            tokens => tokens,
        }
    }

    /// Its size with `more` tokens.
    fn size(&self, more: usize) -> TextSize {
        let tokens = self.done + more;
        TextSize::new(self.prompt.min(tokens), tokens)
    }
}

struct Play<'a> {
    policy: &'a dyn EvictionPolicy,
    needs: Needs,
    scene: &'a Scene,
    floors: Floors,
    team: &'a Team,
    sequences: Vec<Sequence>,
    lifetimes: Lifetimes,
    /// The most entries that each lane held in a step: sequence, layer, lane.
    fullest: BTreeMap<(usize, usize, usize), usize>,
}

/// One sequence's part of a step: its index and how many new tokens.
type Share = (usize, usize);

impl Play<'_> {
    /// Some of the unfinished sequences, each with a random part of its prompt or one decoded token.
    fn random_shares(&self, round: u64, number: usize) -> Vec<Share> {
        let mut shares = Vec::new();
        for sequence in &self.sequences {
            let random = mix(self.scene.seed ^ (round + 1), &[number, sequence.index]) as usize;
            let left_of_prompt = sequence.prompt.saturating_sub(sequence.done);
            let finished = sequence.done >= sequence.prompt + self.scene.decoded;
            if finished || random.is_multiple_of(4) {
                continue;
            }
            // Pages hold 32 entries: chunks around that size meet every case of their borders.
            let chunk = [1, 7, 31, 32, 33, 64][random / 4 % 6];
            shares.push((sequence.index, sequence.cut(self.needs, chunk.min(left_of_prompt).max(1))));
        }
        shares
    }

    fn step(&mut self, shares: &[Share]) -> Result<(), Violation> {
        let mut spans = Vec::new();
        let mut rows = 0;
        for &(index, queries) in shares {
            let sequence = &self.sequences[index];
            let end = sequence.done + queries;
            let stage = match (sequence.done < sequence.prompt, end == sequence.prompt) {
                (true, false) => Stage::Prompt,
                (true, true) => Stage::PromptEnd,
                (false, _) => Stage::Behind,
            };
            let first_position = sequence.done as u32;
            spans.push(Span { first_row: rows, queries, first_position, stage, budget: None });
            rows += queries;
        }
        let mut died_below: Vec<Vec<Death>> = vec![Vec::new(); spans.len()];
        for layer in 0..self.scene.layers {
            self.layer(layer, shares, &spans, &mut died_below)?;
        }
        if self.needs.layers {
            let ended = shares.iter().zip(&spans).filter(|(_, span)| span.prompt_ends());
            ended.into_iter().try_for_each(|(&(index, _), span)| self.ended(index, span))?;
        }
        for &(index, queries) in shares {
            self.sequences[index].cache.advance(queries);
            self.sequences[index].done += queries;
        }
        Ok(())
    }

    fn layer(
        &mut self,
        layer: usize,
        shares: &[Share],
        spans: &[Span],
        died_below: &mut [Vec<Death>],
    ) -> Result<(), Violation> {
        let (hidden, queries) = self.rows(layer, shares);
        let mut taking_part: Vec<&mut Sequence> = self
            .sequences
            .iter_mut()
            .filter(|sequence| shares.iter().any(|&(index, _)| index == sequence.index))
            .collect();
        for (sequence, span) in taking_part.iter_mut().zip(spans) {
            let marks = Before::marks(span);
            let (keys, values) = key_value_rows(self.scene, sequence.index, layer, span);
            let width = self.scene.kv_heads * HEAD_DIM;
            let lanes = sequence.cache.lanes_mut(LayerIdx(layer));
            let part = width / lanes.len();
            for (group, lane) in lanes.iter_mut().enumerate() {
                let (keys, values) = (&keys[group * part..], &values[group * part..]);
                let new = lane.append(span.first_position, span.queries, keys, values, width, None)?;
                Before::mark(lane, new.clone());
                let last_channel = lane.view().layout.side_widths().len() - 1;
                for channel in [0, last_channel] {
                    lane.write_side(new.clone(), channel, &marks, 1)?;
                }
            }
        }
        let before: Vec<Vec<Before>> = taking_part
            .iter()
            .map(|sequence| sequence.cache.lanes(LayerIdx(layer)).iter().map(Before::of).collect())
            .collect();
        let mut lanes: Vec<LaneEditor<'_>> = taking_part
            .iter_mut()
            .zip(spans)
            .map(|(sequence, span)| LaneEditor::new(sequence.cache.lanes_mut(LayerIdx(layer)), span))
            .collect();
        let seen =
            Observation { team: self.team, layer, hidden: &hidden, spans, died_below, first_channel: 1 };
        self.policy.decide(&seen, &mut lanes)?;
        drop(lanes);
        for (which, sequence) in taking_part.iter().enumerate() {
            let first_query = spans[which].first_position;
            for (before, lane) in before[which].iter().zip(sequence.cache.lanes(LayerIdx(layer))) {
                before.check(lane, first_query, self.floors)?;
            }
        }
        let &mut Self { policy, needs, scene, team, floors, .. } = self;
        let shown = Shown { policy, needs, scene, team, floors };
        show(&shown, layer, (&hidden, &queries), &mut taking_part, spans)?;
        for (sequence, span) in taking_part.iter().zip(spans) {
            fullness(self.policy, sequence, layer, span)?;
            for (number, lane) in sequence.cache.lanes(LayerIdx(layer)).iter().enumerate() {
                let fullest = self.fullest.entry((sequence.index, layer, number)).or_default();
                *fullest = lane.len().max(*fullest);
            }
        }
        for (which, sequence) in taking_part.iter_mut().enumerate() {
            died_below[which].clear();
            for (number, lane) in sequence.cache.lanes_mut(LayerIdx(layer)).iter_mut().enumerate() {
                let index = sequence.index;
                lane.reclaim(spans[which].next_position(), &mut |death| {
                    let life = (death.expires_at, death.killer);
                    self.lifetimes.insert((index, layer, number, death.position), life);
                    died_below[which].push(death);
                })?;
            }
            keep_dead_everywhere(sequence.cache.lanes(LayerIdx(layer)), &mut died_below[which]);
        }
        Ok(())
    }

    /// Shows the policy all layers of a sequence, and frees what it ends.
    fn ended(&mut self, index: usize, span: &Span) -> Result<(), Violation> {
        let sequence = &mut self.sequences[index];
        let layers = (0..self.scene.layers).map(LayerIdx);
        let before: Vec<Vec<Before>> = layers
            .clone()
            .map(|layer| sequence.cache.lanes(layer).iter().map(Before::of).collect())
            .collect();
        let mut editors: Vec<LaneEditor<'_>> =
            sequence.cache.layers_mut().map(|lanes| LaneEditor::after(lanes, span)).collect();
        let similarities = self.scene.similarities(index);
        let seen = Ended { span, similarities: &similarities, first_statistic: 1 };
        self.policy.ended(&seen, &mut editors)?;
        drop(editors);
        for (layer, before) in layers.zip(before) {
            for (number, before) in before.iter().enumerate() {
                let lane = &mut sequence.cache.lanes_mut(layer)[number];
                before.check(lane, span.next_position(), self.floors)?;
                lane.reclaim(span.next_position(), &mut |death| {
                    let life = (death.expires_at, death.killer);
                    self.lifetimes.insert((index, layer.0, number, death.position), life);
                })?;
            }
        }
        Ok(())
    }

    /// Hidden states `[t, c]` and queries `[t, h d]` of a step.
    fn rows(&self, layer: usize, shares: &[Share]) -> (Vec<f32>, Vec<f32>) {
        let (mut hidden, mut queries) = (Vec::new(), Vec::new());
        for &(index, count) in shares {
            let done = self.sequences[index].done;
            for position in done..done + count {
                hidden.extend(self.scene.hidden_state(index, layer, position));
                queries.extend(self.scene.queries(index, layer, position));
            }
        }
        (hidden, queries)
    }

    /// Adds what is still alive.
    fn finish(mut self) -> Result<Lifetimes, Violation> {
        for sequence in &self.sequences {
            for layer in 0..self.scene.layers {
                for (number, lane) in sequence.cache.lanes(LayerIdx(layer)).iter().enumerate() {
                    let least = self.policy.peak_in(sequence.size(0), layer, number).least;
                    let fullest = self.fullest.get(&(sequence.index, layer, number)).copied().unwrap_or(0);
                    if fullest < least {
                        return Err(Violation::Rule {
                            rule: "a lane gets as full as its policy says at least",
                            detail: format!("layer {layer}: {fullest} entries at most, said were {least}"),
                        });
                    }
                    let lives = lane.expires_at().iter().zip(lane.killers());
                    for (&position, (&expires_at, &killer)) in lane.positions().iter().zip(lives) {
                        let entry = (sequence.index, layer, number, position);
                        self.lifetimes.insert(entry, (expires_at, killer));
                    }
                }
            }
        }
        Ok(self.lifetimes)
    }
}

/// Keys and values of a span's tokens for all KV heads, `[t, g d]` each.
fn key_value_rows(scene: &Scene, sequence: usize, layer: usize, span: &Span) -> (Vec<f32>, Vec<f32>) {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for position in span.first_position..span.next_position() {
        let [key, value] = scene.key_and_value(sequence, layer, position as usize);
        keys.extend(key);
        values.extend(value);
    }
    (keys, values)
}

/// Whether the lanes of a sequence, before they are reclaimed, are as full as the policy has said at most.
fn fullness(
    policy: &dyn EvictionPolicy,
    sequence: &Sequence,
    layer: usize,
    span: &Span,
) -> Result<(), Violation> {
    let tokens = sequence.done + span.queries;
    for (number, lane) in sequence.cache.lanes(LayerIdx(layer)).iter().enumerate() {
        let (any, own) = {
            let size = sequence.size(span.queries);
            (policy.peak(size), policy.peak_in(size, layer, number))
        };
        let limit = own.most.min(any.most) + span.queries - 1;
        if lane.len() > limit {
            let held = lane.len();
            return Err(Violation::Rule {
                rule: "a lane is never fuller than its policy says",
                detail: format!(
                    "layer {layer}, lane {number}, {tokens} tokens: {held} entries, said were at most {limit}"
                ),
            });
        }
    }
    Ok(())
}

/// Leaves the deaths of tokens that no lane of the layer holds any more, once each.
fn keep_dead_everywhere(lanes: &[Lane], died: &mut Vec<Death>) {
    died.retain(|death| lanes.iter().all(|lane| !lane.positions().contains(&death.position)));
    died.sort_unstable_by_key(|death| (death.position, std::cmp::Reverse((death.expires_at, death.killer))));
    died.dedup_by_key(|death| death.position);
}
