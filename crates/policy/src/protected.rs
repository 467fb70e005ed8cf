//! A policy under floors.

use crate::{
    Attended, Budgets, Ended, EvictionPolicy, Floors, LaneEditor, Needs, Observation, Peak, PolicyError,
    Ranking, Rule, SideChannel, TextSize,
};

/// A policy that may not touch the first tokens and the most recent ones.
///
/// The floors bind the inner policy only: beside another policy in [`crate::Both`], that one is still free.
/// Protect the pair to bind both.
#[derive(Debug, Clone)]
pub struct Protected<P> {
    inner: P,
    floors: Floors,
    rules: Option<Vec<Rule>>,
    rankings: Option<Vec<Ranking>>,
}

impl<P: EvictionPolicy> Protected<P> {
    /// `inner`, never dropping positions below `sinks` nor any of the last `recent` tokens.
    #[must_use]
    pub fn new(inner: P, sinks: u32, recent: u32) -> Self {
        let floors = Floors { sinks, recent };
        let guarded = |rules: &[Rule]| rules.iter().map(|rule| rule.clone().under(floors)).collect();
        let rules = inner.rules().map(guarded);
        let raised =
            |rankings: &[Ranking]| rankings.iter().map(|ranking| ranking.clone().under(floors)).collect();
        let rankings = inner.rankings().map(raised);
        Self { inner, floors, rules, rankings }
    }
}

impl<P: EvictionPolicy> EvictionPolicy for Protected<P> {
    fn per_head(&self) -> bool {
        self.inner.per_head()
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        self.inner.side_channels()
    }

    fn needs(&self) -> Needs {
        self.inner.needs()
    }

    fn rules(&self) -> Option<&[Rule]> {
        self.rules.as_deref()
    }

    fn rankings(&self) -> Option<&[Ranking]> {
        self.rankings.as_deref()
    }

    fn peak(&self, text: TextSize) -> Peak {
        self.inner.peak(text).under(self.floors, text.tokens)
    }

    fn peak_in(&self, text: TextSize, layer: usize, head: usize) -> Peak {
        self.inner.peak_in(text, layer, head).under(self.floors, text.tokens)
    }

    fn budgets(&self, tokens: usize) -> Option<Budgets> {
        self.inner.budgets(tokens).map(|budgets| budgets.under(self.floors))
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.inner.decide(seen, &mut self.guard(lanes))
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.inner.after(seen, &mut self.guard(lanes))
    }

    fn ended(&self, seen: &Ended<'_>, layers: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.inner.ended(seen, &mut self.guard(layers))
    }
}

impl<P> Protected<P> {
    fn guard<'a>(&self, lanes: &'a mut [LaneEditor<'_>]) -> Vec<LaneEditor<'a>> {
        lanes.iter_mut().map(|lanes| lanes.guarded(self.floors)).collect()
    }
}
