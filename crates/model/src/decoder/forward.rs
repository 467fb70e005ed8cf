//! One step of a ragged batch: any mix of prompt chunks and single decoded tokens.
//!
//! Prefill, chunked prefill and decode are this one path. Per layer: norm, project, rotate, append to the
//! cache, let the policy decide, attend over what is visible, let the policy look at that, reclaim what has died.

use std::ops::Range;

use dropcap_kernels::{Epilogue, RopeAngles, Team, rms_norm_heads, rotate, silu_mul};
use dropcap_policy::EvictionPolicy;

use super::host::HostMemory;
use super::step::{DeathSink, Logits, Segment, Step};
use super::{Decoder, Scratch};
use crate::weights::LayerWeights;
use crate::{Mlp, ModelError};

impl Decoder {
    /// Runs one step and writes the asked-for logits to `logits`, f32 `[rows asked for, v]`, in segment order.
    ///
    /// On return each cache has grown by its segment's tokens and has freed what died; `died` has heard of
    /// every entry freed. The result for a sequence does not depend on which others share the step.
    ///
    /// # Errors
    /// As [`Decoder::run`].
    pub fn forward(
        &self,
        team: &Team,
        policy: &dyn EvictionPolicy,
        segments: &mut [Segment<'_>],
        scratch: &mut Scratch,
        died: DeathSink<'_>,
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let asked = self.run(team, policy, segments, scratch, died)?;
        self.project(team, scratch, 0..asked, logits)
    }

    /// [`Decoder::forward`] up to the final norm: gives the number of rows asked for, which [`Decoder::project`] turns into
    /// logits, in segment order. Where no segment asks for any, it takes all rows of the step.
    ///
    /// # Errors
    /// A token id outside the vocabulary, a position beyond the model's, a step or a segment without tokens; then
    /// nothing has changed. An exhausted page pool (reserve before the step: after this error the caches of the step
    /// must be discarded).
    pub fn run(
        &self,
        team: &Team,
        policy: &dyn EvictionPolicy,
        segments: &mut [Segment<'_>],
        scratch: &mut Scratch,
        died: DeathSink<'_>,
    ) -> Result<usize, ModelError> {
        let mut step = self.begin(team, policy, segments, died)?;
        scratch.begin(&step, &self.config);
        self.embed(&step, scratch);
        let angles = self.rope.as_ref().map(|table| match step.turned() {
            Some(turned) => table.angles(&turned),
            None => table.angles(&scratch.positions),
        });
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.attend(index, layer, angles.as_ref(), &mut step, scratch)?;
            self.feed_forward(team, layer, scratch)?;
        }
        self.end_prompts(&mut step)?;
        step.advance()?;
        Ok(self.gather_asked(&step, scratch))
    }

    /// Final norm and head for some of the rows that the last [`Decoder::run`] left. Writes f32 `[rows, v]` to `logits`. All
    /// logits of a long text are large: this gives them a few rows at a time.
    ///
    /// # Errors
    /// Rows that the step did not have.
    pub fn project(
        &self,
        team: &Team,
        scratch: &mut Scratch,
        rows: Range<usize>,
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let width = self.config.hidden;
        logits.clear();
        logits.resize(rows.len() * self.config.vocabulary, 0.0);
        if rows.is_empty() {
            return Ok(());
        }
        // The norm refuses rows that are not there.
        let residual = scratch.residual.get(rows.start * width..rows.end * width).unwrap_or_default();
        let normed = scratch.normed.get_mut(..rows.len() * width).unwrap_or_default();
        self.weights.final_norm.apply(team, self.config.norm.epsilon, residual, normed)?;
        Ok(self.weights.head().apply(team, normed, None, Epilogue::Store, logits)?)
    }

    /// Looks up tokens, and learned positions.
    fn embed(&self, step: &Step<'_, '_>, scratch: &mut Scratch) {
        let width = self.config.hidden;
        // `normed` is free until the first norm: it holds one position row at a time.
        let (residual, learned) = (&mut scratch.residual, &mut scratch.normed[..width]);
        let ids = step.segments.iter().flat_map(|segment| segment.ids);
        for ((row, &id), &position) in residual.chunks_exact_mut(width).zip(ids).zip(&scratch.positions) {
            self.weights.embedding.row(id as usize, row);
            if let Some(table) = &self.weights.positions {
                table.row(position as usize, learned);
                row.iter_mut().zip(learned.iter()).for_each(|(value, shift)| *value += shift);
            }
        }
    }

    /// The attention block of one layer, with everything that touches its cache.
    fn attend(
        &self,
        index: usize,
        layer: &LayerWeights<HostMemory>,
        angles: Option<&RopeAngles>,
        step: &mut Step<'_, '_>,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let (config, team) = (&self.config, step.team);
        layer.attention_norm.apply(team, config.norm.epsilon, &scratch.residual, &mut scratch.normed)?;
        layer.qkv.apply(team, &scratch.normed, Epilogue::Store, &mut scratch.qkv)?;
        self.turn(team, layer, angles, &mut scratch.qkv)?;

        self.append(index, step, &scratch.qkv)?;
        step.decide(index, &scratch.normed)?;
        self.mix(index, step, scratch)?;
        self.silence(index, &mut scratch.mixed);
        if step.needs.layers {
            scratch.before.clone_from(&scratch.residual);
        }
        layer.output.apply(team, &scratch.mixed, Epilogue::Add, &mut scratch.residual)?;
        if step.needs.layers {
            step.compare(index, &scratch.before, &scratch.residual, config.hidden);
        }
        self.renumber(index, step)?;
        self.reclaim(index, step)
    }

    /// Normalises (where the family does) and rotates queries and keys in place.
    fn turn(
        &self,
        team: &Team,
        layer: &LayerWeights<HostMemory>,
        angles: Option<&RopeAngles>,
        qkv: &mut [f32],
    ) -> Result<(), ModelError> {
        let (config, stride, epsilon) = (&self.config, self.fused_width(), self.config.norm.epsilon);
        if let Some(weight) = &layer.query_norm {
            rms_norm_heads(team, qkv, stride, 0, config.heads, weight, epsilon)?;
        }
        if let Some(weight) = &layer.key_norm {
            rms_norm_heads(team, qkv, stride, config.query_width(), config.kv_heads, weight, epsilon)?;
        }
        if let Some(angles) = angles {
            // Queries and keys lie side by side, so one call turns both.
            rotate(team, qkv, stride, 0, config.heads + config.kv_heads, config.head_dim, angles)?;
        }
        Ok(())
    }

    /// The MLP block of one layer.
    fn feed_forward(
        &self,
        team: &Team,
        layer: &LayerWeights<HostMemory>,
        scratch: &mut Scratch,
    ) -> Result<(), ModelError> {
        let epsilon = self.config.norm.epsilon;
        layer.mlp_norm.apply(team, epsilon, &scratch.residual, &mut scratch.normed)?;
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

    /// Moves the rows whose logits were asked for to the front, and gives their number.
    fn gather_asked(&self, step: &Step<'_, '_>, scratch: &mut Scratch) -> usize {
        let width = self.config.hidden;
        let mut asked = 0;
        for (segment, span) in step.segments.iter().zip(&step.spans) {
            let end = span.first_row + span.queries;
            let rows = match segment.logits {
                Logits::None => continue,
                Logits::Last => end - 1..end,
                Logits::From(row) => end.min(span.first_row.saturating_add(row))..end,
                Logits::All => span.first_row..end,
            };
            // Rows only ever move towards the front, so gathering in place is safe.
            scratch.residual.copy_within(rows.start * width..rows.end * width, asked * width);
            asked += rows.len();
        }
        asked
    }
}
