//! Keys turned by their place in the cache, for policies that ask for it.

use std::iter;

use dropcap_cache::LayerIdx;
use dropcap_kernels::{RopeTable, rotate, rotate_back};
use dropcap_policy::Span;

use super::Decoder;
use super::step::Step;
use crate::ModelError;

impl Decoder {
    /// Turns the keys of what stays behind prompts that end: the i-th that stays as the key of a token at position i. Up to
    /// then nothing has ended, so the key of each is turned by its rank among all.
    pub(super) fn renumber(&self, layer: usize, step: &mut Step<'_, '_>) -> Result<(), ModelError> {
        let Some(rope) = self.rope.as_ref().filter(|_| step.needs.renumbers) else { return Ok(()) };
        let table = unscaled(rope);
        let width = self.config.head_dim;
        let ending = step.segments.iter_mut().zip(&step.spans).filter(|(_, span)| span.prompt_ends());
        for (segment, span) in ending {
            for lane in segment.cache.lanes_mut(LayerIdx(layer)) {
                let mut order: Vec<usize> = (0..lane.len()).collect();
                order.sort_unstable_by_key(|&entry| lane.positions()[entry]);
                let all = order.into_iter().zip(0..);
                let staying = all.filter(|&(entry, _)| lane.expires_at()[entry] > span.next_position());
                let (entries, back): (Vec<usize>, Vec<u32>) = staying
                    .zip(0..)
                    .map(|((entry, rank), place): ((usize, u32), u32)| (entry, rank - place))
                    .filter(|&(_, back)| back > 0)
                    .unzip();
                let angles = table.angles(&back);
                for head in 0..lane.view().layout.heads() {
                    let mut keys = lane.read_keys(&entries, head)?;
                    rotate_back(step.team, &mut keys, width, 0, 1, width, &angles)?;
                    lane.write_keys(&entries, head, &keys)?;
                }
            }
        }
        Ok(())
    }

    /// Turns the keys of sinks on to where a turn's queries find them right before their windows. Queries behind the first window
    /// attend alone, so each has its own.
    pub(super) fn anchor(
        &self,
        layer: usize,
        step: &mut Step<'_, '_>,
        (numbers, spans): (&[usize], &[Span]),
    ) -> Result<(), ModelError> {
        let (Some(rope), Some(anchored)) = (&self.rope, step.needs.anchored) else { return Ok(()) };
        let (heads, width) = (self.config.kv_heads, self.config.head_dim);
        for (&number, span) in numbers.iter().zip(spans) {
            let ahead = anchored.ahead(span.first_position, span.budget);
            if ahead == 0 {
                continue;
            }
            let cache = &mut *step.segments[number].cache;
            let mut keys = cache.kept_keys(LayerIdx(layer)).to_vec();
            let angles = unscaled(rope).angles(&vec![ahead; keys.len() / (heads * width)]);
            rotate(step.team, &mut keys, heads * width, 0, heads, width, &angles)?;
            for (group, lane) in cache.lanes_mut(LayerIdx(layer)).iter_mut().enumerate() {
                let sinks =
                    lane.positions().iter().zip(0..).filter(|(position, _)| **position < anchored.sinks);
                let (positions, entries): (Vec<u32>, Vec<usize>) =
                    sinks.map(|(&at, entry)| (at, entry)).unzip();
                let of_lane = lane.view().layout.heads();
                for head in 0..of_lane {
                    let of_head = |&position: &u32| {
                        let row = position as usize * heads + group * of_lane + head;
                        keys[row * width..][..width].iter().copied()
                    };
                    let rows: Vec<f32> = positions.iter().flat_map(of_head).collect();
                    lane.write_keys(&entries, head, &rows)?;
                }
            }
        }
        Ok(())
    }
}

/// The same angles without the factor on cos and sin: that is in the keys already.
fn unscaled(rope: &RopeTable) -> RopeTable {
    RopeTable { inv_freq: rope.inv_freq.clone(), attention_scaling: 1.0 }
}

impl Step<'_, '_> {
    /// What the rows' keys and queries are turned by, u32 `[t]`, where that differs from their positions.
    pub(super) fn turned(&self) -> Option<Vec<u32>> {
        let shifts = self.segments.iter().map(|segment| segment.cache.shift());
        shifts.clone().any(|shift| shift > 0).then(|| {
            let rows = self.spans.iter().zip(shifts);
            rows.flat_map(|(span, shift)| {
                (span.first_position..span.next_position()).zip(iter::repeat(shift))
            })
            .map(|(position, shift)| position.saturating_sub(shift))
            .collect()
        })
    }

    /// Counts the tokens, which all layers have, and lets what comes behind prompts that ended follow on what stayed.
    pub(super) fn advance(&mut self) -> Result<(), ModelError> {
        for segment in self.segments.iter_mut() {
            segment.cache.advance(segment.ids.len());
        }
        if !self.needs.renumbers {
            return Ok(());
        }
        let ending = self.segments.iter_mut().zip(&self.spans).filter(|(_, span)| span.prompt_ends());
        for (segment, span) in ending {
            // Not their lengths: what has ended may wait for its reclaim.
            let stays = |ends: &&u32| **ends > span.next_position();
            let layers = (0..segment.cache.layers()).flat_map(|layer| segment.cache.lanes(LayerIdx(layer)));
            let mut counts = layers.map(|lane| lane.expires_at().iter().filter(stays).count());
            let first = counts.next().unwrap_or(0);
            if let Some(other) = counts.find(|&count| count != first) {
                return Err(ModelError::UnevenLanes { first, other });
            }
            segment.cache.renumber(u32::try_from(first).unwrap_or(u32::MAX));
        }
        Ok(())
    }
}
