//! A policy whose keys are turned by their place in the cache.

use crate::{
    Anchored, Attended, Budgets, Ended, EvictionPolicy, LaneEditor, Needs, Observation, Peak, PolicyError,
    Ranking, Rule, SideChannel, TextSize,
};

/// A policy of which keys are turned by their place in the cache: once, or as the text goes on.
#[derive(Debug, Clone)]
pub struct Turned<P> {
    inner: P,
    anchored: Option<Anchored>,
}

impl<P: EvictionPolicy> Turned<P> {
    /// A policy of which what stays where a prompt ends is turned to consecutive positions ([`Needs::renumbers`]). It must keep as
    /// many entries in every lane there, and end none before.
    #[must_use]
    pub fn once(inner: P) -> Self {
        Self { inner, anchored: None }
    }

    /// A policy that keeps sinks and a window, which sinks follow ([`Needs::anchored`]).
    #[must_use]
    pub fn always(inner: P, anchored: Anchored) -> Self {
        Self { inner, anchored: Some(anchored) }
    }
}

impl<P: EvictionPolicy> EvictionPolicy for Turned<P> {
    fn per_head(&self) -> bool {
        self.inner.per_head()
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        self.inner.side_channels()
    }

    fn needs(&self) -> Needs {
        let renumbers = self.anchored.is_none();
        Needs { renumbers, anchored: self.anchored, ..self.inner.needs() }
    }

    fn rules(&self) -> Option<&[Rule]> {
        self.inner.rules()
    }

    fn rankings(&self) -> Option<&[Ranking]> {
        self.inner.rankings()
    }

    fn peak(&self, text: TextSize) -> Peak {
        self.inner.peak(text)
    }

    fn peak_in(&self, text: TextSize, layer: usize, head: usize) -> Peak {
        self.inner.peak_in(text, layer, head)
    }

    fn budgets(&self, tokens: usize) -> Option<Budgets> {
        self.inner.budgets(tokens)
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.inner.decide(seen, lanes)
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.inner.after(seen, lanes)
    }

    fn ended(&self, seen: &Ended<'_>, layers: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.inner.ended(seen, layers)
    }
}
