//! A policy whose texts have all set themselves the same budget.

use crate::{
    Attended, Ended, EvictionPolicy, LaneEditor, Needs, Observation, Peak, PolicyError, SideChannel, Span,
    TextSize,
};

/// A policy under a text's own budget: it is shown steps that carry one.
#[derive(Debug)]
pub(super) struct Within<'a> {
    pub(super) policy: &'a dyn EvictionPolicy,
    pub(super) budget: u32,
}

impl Within<'_> {
    fn spans(&self, spans: &[Span]) -> Vec<Span> {
        spans.iter().map(|span| Span { budget: Some(self.budget), ..span.clone() }).collect()
    }
}

impl EvictionPolicy for Within<'_> {
    fn per_head(&self) -> bool {
        self.policy.per_head()
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        self.policy.side_channels()
    }

    fn needs(&self) -> Needs {
        self.policy.needs()
    }

    fn peak(&self, text: TextSize) -> Peak {
        self.policy.peak(TextSize { budget: Some(self.budget), ..text })
    }

    fn peak_in(&self, text: TextSize, layer: usize, head: usize) -> Peak {
        self.policy.peak_in(TextSize { budget: Some(self.budget), ..text }, layer, head)
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.policy.decide(&Observation { spans: &self.spans(seen.spans), ..*seen }, lanes)
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.policy.after(&Attended { spans: &self.spans(seen.spans), ..*seen }, lanes)
    }

    fn ended(&self, seen: &Ended<'_>, layers: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        let span = Span { budget: Some(self.budget), ..seen.span.clone() };
        self.policy.ended(&Ended { span: &span, ..*seen }, layers)
    }
}
