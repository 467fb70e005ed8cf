//! Attention over what is visible, and the policy's look at it.

use dropcap_cache::LayerIdx;
use dropcap_kernels::{AttentionRows, AttentionShape, attention};
use dropcap_policy::{Attended, LaneEditor, Span, Turn, turns};

use super::step::Step;
use super::{Decoder, Scratch};
use crate::ModelError;

impl Decoder {
    /// Mixes the values that each row sees into `scratch.mixed`, `[t, h d]`, and lets the policy act on what has attended.
    pub(super) fn mix(
        &self,
        layer: usize,
        step: &mut Step<'_, '_>,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let shape = self.attention_shape(layer);
        for (numbers, spans) in turns(&step.spans, step.needs) {
            self.anchor(layer, step, (&numbers, &spans))?;
            let row = |(&number, span): (&usize, &Span)| AttentionRows {
                first_row: span.first_row,
                queries: span.queries,
                first_position: span.first_position,
                lanes: step.segments[number].cache.views(LayerIdx(layer)),
            };
            let rows: Vec<AttentionRows<'_>> = numbers.iter().zip(&spans).map(row).collect();
            attention(step.team, &shape, &rows, &scratch.qkv, self.fused_width(), &mut scratch.mixed)?;
            self.after(layer, step, &scratch.normed, &scratch.qkv, (&numbers, &spans))?;
        }
        Ok(())
    }

    /// Lets the policy act on those of a turn's spans that it waits for; `hidden` and `qkv` are those of the whole step, f32
    /// `[t, c]` and `[t, (h + 2g) d]`.
    pub(super) fn after(
        &self,
        layer: usize,
        step: &mut Step<'_, '_>,
        hidden: &[f32],
        qkv: &[f32],
        (numbers, spans): (&[usize], &[Span]),
    ) -> Result<(), ModelError> {
        let needs = step.needs;
        let heeded = numbers.iter().zip(spans).filter(|(_, span)| needs.heeds(span));
        let (numbers, spans): Turn = heeded.map(|(&number, span)| (number, span.clone())).unzip();
        if spans.is_empty() {
            return Ok(());
        }
        let similarities: Vec<Vec<f64>> = if needs.layers {
            numbers.iter().map(|&number| step.segments[number].cache.similarities()).collect()
        } else {
            Vec::new()
        };
        let mut waiting = numbers.iter().zip(&spans).peekable();
        let mut lanes = Vec::with_capacity(spans.len());
        for (index, segment) in step.segments.iter_mut().enumerate() {
            if let Some((_, span)) = waiting.next_if(|&(&number, _)| number == index) {
                lanes.push(LaneEditor::after(segment.cache.lanes_mut(LayerIdx(layer)), span));
            }
        }
        let seen = Attended {
            team: step.team,
            layer,
            layers: self.config.layers,
            hidden,
            queries: qkv,
            query_stride: self.fused_width(),
            shape: self.attention_shape(layer),
            rope: self.rope.as_ref(),
            similarities: &similarities,
            spans: &spans,
            first_statistic: 0,
        };
        Ok(step.policy.after(&seen, &mut lanes)?)
    }

    fn attention_shape(&self, layer: usize) -> AttentionShape {
        AttentionShape {
            query_heads: self.config.heads,
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
            scale: self.config.attention_scale(layer),
        }
    }
}
