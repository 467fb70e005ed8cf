//! One step of a ragged batch: any mix of prompt chunks and single decoded tokens.
//!
//! Prefill, chunked prefill and decode are this one path. Per layer: norm, project, rotate, append to the
//! cache, let the policy decide, attend over what is visible, reclaim what has died.

use dropcap_cache::{Death, KvCache, LayerIdx};
use dropcap_kernels::{
    AttentionRows, AttentionShape, Epilogue, RopeAngles, Team, attention, matmul, rms_norm_heads, rotate,
    silu_mul,
};
use dropcap_policy::{EvictionPolicy, Span};

use super::{Decoder, DecoderLayer, Scratch};
use crate::{Mlp, ModelError};

/// Which rows of a segment should come out as logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// None: a prompt chunk that is not the last.
    None,
    /// The last row only: what sampling needs.
    Last,
    /// Every row: evaluation and `dropcap forward`.
    All,
}

/// One sequence's part of a step.
#[derive(Debug)]
pub struct Segment<'a> {
    /// The sequence's cache; its next position is the position of `ids[0]`.
    pub cache: &'a mut KvCache,
    /// New tokens of this step, at least one.
    pub ids: &'a [u32],
    /// Whether this step holds the prompt's last token.
    pub prompt_ends: bool,
    /// Which rows to turn into logits.
    pub logits: Logits,
}

/// Told of each entry that dies: segment index, layer, lane within the layer, and the death.
pub type DeathSink<'a> = &'a mut dyn FnMut(usize, usize, usize, Death);

impl Decoder {
    /// Runs one step and writes the asked-for logits to `logits`, f32 `[rows asked for, v]`, in segment order.
    ///
    /// On return each cache has grown by its segment's tokens and has freed what died; `died` has heard of
    /// every entry freed. The result for a sequence does not depend on which others share the step.
    ///
    /// # Errors
    /// A token id outside the vocabulary, a position beyond the model's, an empty segment, or an exhausted
    /// page pool (reserve before the step: after this error the caches of the step must be discarded).
    pub fn forward(
        &self,
        team: &Team,
        policy: &dyn EvictionPolicy,
        segments: &mut [Segment<'_>],
        scratch: &mut Scratch,
        died: DeathSink<'_>,
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let spans = self.embed(segments, scratch)?;
        let angles = self.rope.as_ref().map(|table| table.angles(&scratch.positions));
        let angles = angles.as_ref();
        let mut died_below = vec![Vec::new(); segments.len()];
        for (index, layer) in self.layers.iter().enumerate() {
            self.attend(
                team,
                policy,
                index,
                layer,
                angles,
                segments,
                &spans,
                &mut died_below,
                scratch,
                died,
            )?;
            self.feed_forward(team, layer, scratch)?;
        }
        for segment in segments.iter_mut() {
            segment.cache.advance(segment.ids.len());
        }
        self.project_to_vocabulary(team, segments, &spans, scratch, logits)
    }

    /// Looks up tokens (and learned positions), after checking all of them.
    fn embed(&self, segments: &[Segment<'_>], scratch: &mut Scratch) -> Result<Vec<Span>, ModelError> {
        let config = &self.config;
        let mut spans = Vec::with_capacity(segments.len());
        let mut rows = 0;
        for segment in segments {
            if segment.ids.is_empty() {
                return Err(ModelError::EmptyInput);
            }
            let first = segment.cache.next_position() as usize;
            let end = first + segment.ids.len();
            if end > config.max_positions {
                return Err(ModelError::TooManyPositions { wanted: end, limit: config.max_positions });
            }
            if let Some(&id) = segment.ids.iter().find(|&&id| id as usize >= config.vocabulary) {
                return Err(ModelError::TokenOutsideVocabulary { id, vocabulary: config.vocabulary });
            }
            spans.push(Span {
                first_row: rows,
                queries: segment.ids.len(),
                first_position: first as u32,
                prompt_ends: segment.prompt_ends,
            });
            rows += segment.ids.len();
        }
        scratch.resize(rows, config);
        scratch.positions.clear();
        for span in &spans {
            scratch.positions.extend((0..span.queries as u32).map(|i| span.first_position + i));
        }
        let width = config.hidden;
        // `normed` is free until the first norm: it holds one position row at a time.
        let (residual, learned) = (&mut scratch.residual, &mut scratch.normed[..width]);
        let ids = segments.iter().flat_map(|segment| segment.ids);
        for ((row, &id), &position) in residual.chunks_exact_mut(width).zip(ids).zip(&scratch.positions) {
            self.embedding.row(id as usize, row);
            if let Some(table) = &self.positions {
                table.row(position as usize, learned);
                for (value, shift) in row.iter_mut().zip(learned.iter()) {
                    *value += shift;
                }
            }
        }
        Ok(spans)
    }

    /// The attention block of one layer, with everything that touches its cache.
    #[expect(clippy::too_many_arguments, reason = "one private step of forward, split for reading only")]
    fn attend(
        &self,
        team: &Team,
        policy: &dyn EvictionPolicy,
        index: usize,
        layer: &DecoderLayer,
        angles: Option<&RopeAngles>,
        segments: &mut [Segment<'_>],
        spans: &[Span],
        died_below: &mut [Vec<Death>],
        scratch: &mut Scratch,
        died: DeathSink<'_>,
    ) -> Result<(), ModelError> {
        let config = &self.config;
        layer.attention_norm.apply(team, &scratch.residual, &mut scratch.normed)?;
        layer.qkv.apply(team, &scratch.normed, Epilogue::Store, &mut scratch.qkv)?;
        self.turn(team, layer, angles, scratch)?;
        self.append(index, segments, spans, &scratch.qkv)?;

        self.decide(team, policy, index, &scratch.normed, segments, spans, died_below)?;

        let rows: Vec<AttentionRows<'_>> = segments
            .iter()
            .zip(spans)
            .map(|(segment, span)| AttentionRows {
                first_row: span.first_row,
                queries: span.queries,
                first_position: span.first_position,
                lanes: segment.cache.views(LayerIdx(index)),
            })
            .collect();
        let shape = AttentionShape {
            query_heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: config.attention_scale(index),
        };
        attention(team, &shape, &rows, &scratch.qkv, self.fused_width(), &mut scratch.mixed)?;
        drop(rows);
        layer.output.apply(team, &scratch.mixed, Epilogue::Add, &mut scratch.residual)?;

        self.reclaim(index, segments, died_below, died)
    }

    /// Normalises (where the family does) and rotates queries and keys in place.
    fn turn(
        &self,
        team: &Team,
        layer: &DecoderLayer,
        angles: Option<&RopeAngles>,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let (config, stride) = (&self.config, self.fused_width());
        let queries = config.query_width();
        let epsilon = config.norm.epsilon;
        if let Some(weight) = &layer.query_norm {
            rms_norm_heads(team, &mut scratch.qkv, stride, 0, config.heads, weight, epsilon)?;
        }
        if let Some(weight) = &layer.key_norm {
            rms_norm_heads(team, &mut scratch.qkv, stride, queries, config.kv_heads, weight, epsilon)?;
        }
        if let Some(angles) = angles {
            // Queries and keys lie side by side, so one call turns both.
            let heads = config.heads + config.kv_heads;
            rotate(team, &mut scratch.qkv, stride, 0, heads, config.head_dim, angles)?;
        }
        Ok(())
    }

    /// The MLP block of one layer.
    fn feed_forward(
        &self,
        team: &Team,
        layer: &DecoderLayer,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        layer.mlp_norm.apply(team, &scratch.residual, &mut scratch.normed)?;
        let epilogue = match self.config.mlp {
            Mlp::GeluTanh => Epilogue::GeluTanh,
            Mlp::Gelu => Epilogue::Gelu,
            Mlp::SwiGlu => Epilogue::Store,
        };
        layer.up.apply(team, &scratch.normed, epilogue, &mut scratch.up)?;
        let hidden = if self.config.is_gated() {
            silu_mul(team, &scratch.up, self.config.intermediate, &mut scratch.gated)?;
            &scratch.gated
        } else {
            &scratch.up
        };
        layer.down.apply(team, hidden, Epilogue::Add, &mut scratch.residual)?;
        Ok(())
    }

    /// Final norm and head, for the rows that were asked for and no others.
    fn project_to_vocabulary(
        &self,
        team: &Team,
        segments: &[Segment<'_>],
        spans: &[Span],
        scratch: &mut Scratch,
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let width = self.config.hidden;
        let mut wanted = 0;
        for (segment, span) in segments.iter().zip(spans) {
            let rows = match segment.logits {
                Logits::None => 0..0,
                Logits::Last => span.first_row + span.queries - 1..span.first_row + span.queries,
                Logits::All => span.first_row..span.first_row + span.queries,
            };
            // Rows only ever move towards the front, so gathering in place is safe.
            scratch.residual.copy_within(rows.start * width..rows.end * width, wanted * width);
            wanted += rows.len();
        }
        logits.clear();
        logits.resize(wanted * self.config.vocabulary, 0.0);
        if wanted == 0 {
            return Ok(());
        }
        let normed = &mut scratch.normed[..wanted * width];
        self.final_norm.apply(team, &scratch.residual[..wanted * width], normed)?;
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        matmul(team, normed, head, None, Epilogue::Store, logits)?;
        Ok(())
    }
}
