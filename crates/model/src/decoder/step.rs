//! What one step works on: the tokens of a ragged batch, and the caches that they go into.

use dropcap_cache::{Death, KvCache};
use dropcap_kernels::Team;
use dropcap_policy::{Action, EvictionPolicy, Needs, Rule, Span, Stage};

use super::Decoder;
use crate::ModelError;

/// Which rows of a segment should come out as logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// None: a prompt chunk that is not the last, or rows for [`Decoder::project`].
    None,
    /// The last row only: what sampling needs.
    Last,
    /// The rows from this one on; none where there are fewer.
    From(usize),
    /// Every row.
    All,
}

/// One sequence's part of a step.
#[derive(Debug)]
pub struct Segment<'a> {
    /// The sequence's cache; its next position is the position of `ids[0]`.
    pub cache: &'a mut KvCache,
    /// New tokens of this step, at least one.
    pub ids: &'a [u32],
    /// Where in the text they lie.
    pub stage: Stage,
    /// The text's own budget ([`Span::budget`]).
    pub budget: Option<u32>,
    /// Which rows to turn into logits.
    pub logits: Logits,
}

/// Told of each entry that dies: segment index, layer, lane within the layer, and the death.
pub type DeathSink<'a> = &'a mut dyn FnMut(usize, usize, usize, Death);

/// A step under way.
pub(super) struct Step<'a, 'c> {
    pub(super) team: &'a Team,
    pub(super) policy: &'a dyn EvictionPolicy,
    pub(super) needs: Needs,
    pub(super) segments: &'a mut [Segment<'c>],
    /// Each segment's rows and positions.
    pub(super) spans: Vec<Span>,
    /// Per segment, what left the layer below in this step.
    pub(super) died_below: Vec<Vec<Death>>,
    /// Whether the policy reads that: rules say so, code might.
    pub(super) follows_deaths: bool,
    pub(super) died: DeathSink<'a>,
}

impl Decoder {
    /// A step that has been checked as a whole, before anything is changed.
    pub(super) fn begin<'a, 'c>(
        &self,
        team: &'a Team,
        policy: &'a dyn EvictionPolicy,
        segments: &'a mut [Segment<'c>],
        died: DeathSink<'a>,
    ) -> Result<Step<'a, 'c>, ModelError> {
        let needs = policy.needs();
        let (limit, vocabulary) = (self.config.max_positions, self.config.vocabulary);
        let mut spans = Vec::with_capacity(segments.len());
        let mut rows = 0;
        for segment in segments.iter() {
            let (first_position, queries) = (segment.cache.next_position(), segment.ids.len());
            let end = first_position as usize + queries;
            if queries == 0 {
                return Err(ModelError::EmptyInput);
            }
            if end > limit {
                return Err(ModelError::TooManyPositions { wanted: end, limit });
            }
            if let Some(&id) = segment.ids.iter().find(|&&id| id as usize >= vocabulary) {
                return Err(ModelError::TokenOutsideVocabulary { id, vocabulary });
            }
            let &Segment { stage, budget, .. } = segment;
            if needs.renumbers && segment.cache.shift() > 0 && stage != Stage::Behind {
                return Err(ModelError::RenumberedBefore);
            }
            spans.push(Span { first_row: rows, queries, first_position, stage, budget });
            rows += queries;
        }
        if rows == 0 {
            return Err(ModelError::EmptyInput);
        }
        let died_below = vec![Vec::new(); spans.len()];
        let inherits = |rule: &Rule| matches!(rule.action, Action::Inherit);
        let follows_deaths = policy.rules().is_none_or(|rules| rules.iter().any(inherits));
        Ok(Step { team, policy, needs, segments, spans, died_below, follows_deaths, died })
    }
}

impl Step<'_, '_> {
    /// Absolute position of each row, u32 `[t]`.
    pub(super) fn positions(&self) -> impl Iterator<Item = u32> {
        self.spans.iter().flat_map(|span| span.first_position..span.next_position())
    }
}
