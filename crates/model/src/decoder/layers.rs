//! All layers of a sequence together, for policies that share a budget among them.

use dropcap_cache::LayerIdx;
use dropcap_policy::{Ended, LaneEditor, Stage, cosine};

use super::Decoder;
use super::step::Step;
use crate::ModelError;

impl Step<'_, '_> {
    /// Notes how similar a layer's attention block left the rows of prompts, from the residual streams before and after it,
    /// f32 `[t, c]` each.
    pub(super) fn compare(&mut self, layer: usize, before: &[f32], after: &[f32], hidden: usize) {
        let prompts =
            self.segments.iter_mut().zip(&self.spans).filter(|(_, span)| span.stage != Stage::Behind);
        for (segment, span) in prompts {
            let rows = span.first_row * hidden..(span.first_row + span.queries) * hidden;
            let pairs = before[rows.clone()].chunks_exact(hidden).zip(after[rows].chunks_exact(hidden));
            let cosines = pairs.map(|(before, after)| cosine(before, after));
            segment.cache.note_similarities(LayerIdx(layer), cosines);
        }
    }
}

impl Decoder {
    /// Lets a policy that waited for all layers decide about prompts that have ended in them, and frees what it ends.
    pub(super) fn end_prompts(&self, step: &mut Step<'_, '_>) -> Result<(), ModelError> {
        if !step.needs.layers || !step.spans.iter().any(dropcap_policy::Span::prompt_ends) {
            return Ok(());
        }
        let policy = step.policy;
        let ending = step.segments.iter_mut().zip(&step.spans).filter(|(_, span)| span.prompt_ends());
        for (segment, span) in ending {
            let similarities = segment.cache.similarities();
            let mut layers: Vec<LaneEditor<'_>> =
                segment.cache.layers_mut().map(|lanes| LaneEditor::after(lanes, span)).collect();
            policy.ended(&Ended { span, similarities: &similarities, first_statistic: 0 }, &mut layers)?;
        }
        (0..self.config.layers).try_for_each(|layer| self.reclaim(layer, step))
    }
}
