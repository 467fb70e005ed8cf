//! What a step does to the caches, layer by layer: append, decide, reclaim.

use dropcap_cache::{Death, KeyValueRows, LayerIdx};
use dropcap_kernels::Team;
use dropcap_policy::{EvictionPolicy, LaneEditor, Observation, Span};

use super::Decoder;
use super::forward::{DeathSink, Segment};
use crate::ModelError;

impl Decoder {
    /// Appends this step's keys and values to every lane; a sliding window is a lifetime given at birth.
    pub(super) fn append(
        &self,
        index: usize,
        segments: &mut [Segment<'_>],
        spans: &[Span],
        qkv: &[f32],
    ) -> Result<(), ModelError> {
        let (config, stride) = (&self.config, self.fused_width());
        let key_offset = config.query_width();
        let value_offset = key_offset + config.key_width();
        let window = self.window(index);
        for (segment, span) in segments.iter_mut().zip(spans) {
            let data = &qkv[span.first_row * stride..];
            let rows = KeyValueRows { data, stride, key_offset, value_offset, count: span.queries };
            segment.cache.append(LayerIdx(index), rows, window)?;
        }
        Ok(())
    }

    /// Lets the policy decide about one layer; `hidden` is the input of its attention block, f32 `[t, c]`.
    #[expect(clippy::too_many_arguments, reason = "one private step of forward, split for reading only")]
    pub(super) fn decide(
        &self,
        team: &Team,
        policy: &dyn EvictionPolicy,
        layer: usize,
        hidden: &[f32],
        segments: &mut [Segment<'_>],
        spans: &[Span],
        died_below: &[Vec<Death>],
    ) -> Result<(), ModelError> {
        let mut lanes: Vec<LaneEditor<'_>> = segments
            .iter_mut()
            .zip(spans)
            .map(|(segment, span)| LaneEditor::new(segment.cache.lanes_mut(LayerIdx(layer)), span))
            .collect();
        let seen = Observation { team, layer, hidden, spans, died_below, first_channel: 0 };
        Ok(policy.decide(&seen, &mut lanes)?)
    }

    /// Frees what the next query does not see, and leaves in `died_below` what the layer above should know of.
    pub(super) fn reclaim(
        &self,
        index: usize,
        segments: &mut [Segment<'_>],
        died_below: &mut [Vec<Death>],
        died: DeathSink<'_>,
    ) -> Result<(), ModelError> {
        let window = self.window(index);
        for (number, (segment, below)) in segments.iter_mut().zip(died_below).enumerate() {
            let now = segment.cache.next_position() + segment.ids.len() as u32;
            below.clear();
            segment.cache.reclaim(LayerIdx(index), now, &mut |lane, death| {
                died(number, index, lane, death);
                // What merely left a sliding window is no decision that other layers should follow.
                if window.is_none_or(|window| death.expires_at < death.position.saturating_add(window)) {
                    below.push(death);
                }
            })?;
            let lanes = segment.cache.lanes(LayerIdx(index));
            if lanes.len() > 1 {
                // Dead in this layer means dead in every lane of it.
                below.retain(|death| lanes.iter().all(|lane| !lane.positions().contains(&death.position)));
                below.sort_unstable_by_key(|death| (death.position, std::cmp::Reverse(death.expires_at)));
                below.dedup_by_key(|death| death.position);
            }
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
