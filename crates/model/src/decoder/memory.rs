//! What a step does to the caches, layer by layer: append, decide, reclaim.

use std::cmp::Reverse;

use dropcap_cache::{Death, KeyValueRows, Lane, LayerIdx};
use dropcap_policy::{LaneEditor, Observation};

use super::Decoder;
use super::step::Step;
use crate::ModelError;

impl Decoder {
    /// Appends this step's keys and values, from fused rows `[t, (h + 2g) d]`, to every lane; a sliding window is a
    /// lifetime given at birth.
    pub(super) fn append(
        &self,
        layer: usize,
        step: &mut Step<'_, '_>,
        qkv: &[f32],
    ) -> Result<(), ModelError> {
        let (stride, key_offset) = (self.fused_width(), self.config.query_width());
        let value_offset = key_offset + self.config.key_width();
        for (segment, span) in step.segments.iter_mut().zip(&step.spans) {
            let data = &qkv[span.first_row * stride..];
            let rows = KeyValueRows { data, stride, key_offset, value_offset, count: span.queries };
            if let Some(anchored) = step.needs.anchored {
                segment.cache.keep_keys(LayerIdx(layer), rows, anchored.sinks)?;
            }
            segment.cache.append(LayerIdx(layer), rows, self.window(layer))?;
        }
        Ok(())
    }

    /// Frees what the next query does not see, and leaves what the layer above should know of.
    pub(super) fn reclaim(&self, layer: usize, step: &mut Step<'_, '_>) -> Result<(), ModelError> {
        let (window, follows) = (self.window(layer), step.follows_deaths);
        // What merely left a sliding window is no decision that other layers should follow.
        let decided = |death: &Death| {
            window.is_none_or(|window| death.expires_at < death.position.saturating_add(window))
        };
        let sequences = step.segments.iter_mut().zip(&step.spans).zip(&mut step.died_below);
        for (number, ((segment, span), below)) in sequences.enumerate() {
            below.clear();
            segment.cache.reclaim(LayerIdx(layer), span.next_position(), &mut |lane, death| {
                (step.died)(number, layer, lane, death);
                if follows && decided(&death) {
                    below.push(death);
                }
            })?;
            keep_dead_everywhere(segment.cache.lanes(LayerIdx(layer)), below);
        }
        Ok(())
    }

    /// Width of a fused `[q | k | v]` row.
    pub(super) fn fused_width(&self) -> usize {
        self.config.query_width() + 2 * self.config.key_width()
    }

    fn window(&self, layer: usize) -> Option<u32> {
        self.config.sliding_window.get(layer).copied().flatten()
    }
}

impl Step<'_, '_> {
    /// Lets the policy decide about one layer; `hidden` is the input of its attention block, f32 `[t, c]`.
    pub(super) fn decide(&mut self, layer: usize, hidden: &[f32]) -> Result<(), ModelError> {
        let sequences = self.segments.iter_mut().zip(&self.spans);
        let lanes =
            sequences.map(|(segment, span)| LaneEditor::new(segment.cache.lanes_mut(LayerIdx(layer)), span));
        let mut lanes: Vec<LaneEditor<'_>> = lanes.collect();
        let (team, spans, died_below) = (self.team, &self.spans, &self.died_below);
        let seen = Observation { team, layer, hidden, spans, died_below, first_channel: 0 };
        Ok(self.policy.decide(&seen, &mut lanes)?)
    }
}

/// Leaves the deaths of tokens that no lane of the layer holds any more, each once, with its latest end and the latest killer
/// of those that ended there.
///
/// The latest, because a lane whose end is known beforehand has forgotten the token by the time that a query ends it in
/// another: decoded token by token, that query is all that there is to tell.
///
/// One look at every live entry, however many have died: a prompt of 32k tokens over 8 lanes that keeps 1k of each
/// would otherwise compare 250k deaths with 8k positions each.
fn keep_dead_everywhere(lanes: &[Lane], died: &mut Vec<Death>) {
    if lanes.len() < 2 || died.is_empty() {
        return;
    }
    died.sort_unstable_by_key(|death| (death.position, Reverse((death.expires_at, death.killer))));
    died.dedup_by_key(|death| death.position);
    let (first, last) = (died[0].position, died[died.len() - 1].position);
    let place = |position: u32| position.wrapping_sub(first) as usize;
    let mut lives = vec![false; place(last) + 1];
    for &position in lanes.iter().flat_map(Lane::positions) {
        if let Some(lives) = lives.get_mut(place(position)) {
            *lives = true;
        }
    }
    died.retain(|death| !lives[place(death.position)]);
}

#[cfg(test)]
mod tests;
