//! What a decoder shows a policy after attention.

use dropcap_cache::LayerIdx;
use dropcap_kernels::{AttentionShape, Team};

use super::made_up::{GROUP, HEAD_DIM};
use super::play::Sequence;
use super::rules::Before;
use super::{Scene, Violation};
use crate::{Attended, EvictionPolicy, Floors, LaneEditor, Needs, Span, turns};

/// Who is shown what has attended.
pub(super) struct Shown<'a> {
    pub(super) policy: &'a dyn EvictionPolicy,
    pub(super) needs: Needs,
    pub(super) scene: &'a Scene,
    pub(super) team: &'a Team,
    pub(super) floors: Floors,
}

/// Shows the policy what has attended, as a decoder does, and holds it to the rules.
pub(super) fn show(
    shown: &Shown<'_>,
    layer: usize,
    (hidden, queries): (&[f32], &[f32]),
    taking_part: &mut [&mut Sequence],
    spans: &[Span],
) -> Result<(), Violation> {
    let query_heads = GROUP * shown.scene.kv_heads;
    let shape = AttentionShape {
        query_heads,
        kv_heads: shown.scene.kv_heads,
        head_dim: HEAD_DIM,
        scale: 1.0 / (HEAD_DIM as f32).sqrt(),
    };
    for (numbers, spans) in turns(spans, shown.needs) {
        let heeded = numbers.into_iter().zip(spans).filter(|(_, span)| shown.needs.heeds(span));
        let (numbers, spans): (Vec<usize>, Vec<Span>) = heeded.unzip();
        if spans.is_empty() {
            continue;
        }
        let before: Vec<Vec<Before>> = numbers
            .iter()
            .map(|&number| taking_part[number].cache.lanes(LayerIdx(layer)).iter().map(Before::of).collect())
            .collect();
        let similarities: Vec<Vec<f64>> =
            numbers.iter().map(|&number| shown.scene.similarities(taking_part[number].index)).collect();
        let mut waiting = numbers.iter().zip(&spans).peekable();
        let mut lanes = Vec::new();
        for (index, sequence) in taking_part.iter_mut().enumerate() {
            if let Some((_, span)) = waiting.next_if(|&(&number, _)| number == index) {
                lanes.push(LaneEditor::after(sequence.cache.lanes_mut(LayerIdx(layer)), span));
            }
        }
        let seen = Attended {
            team: shown.team,
            layer,
            layers: shown.scene.layers,
            hidden,
            queries,
            query_stride: query_heads * HEAD_DIM,
            shape,
            rope: None,
            similarities: if shown.needs.layers { &similarities } else { &[] },
            spans: &spans,
            first_statistic: 1,
        };
        shown.policy.after(&seen, &mut lanes)?;
        for ((&number, span), before) in numbers.iter().zip(&spans).zip(before) {
            for (before, lane) in before.iter().zip(taking_part[number].cache.lanes(LayerIdx(layer))) {
                before.check(lane, span.next_position(), shown.floors)?;
            }
        }
    }
    Ok(())
}
