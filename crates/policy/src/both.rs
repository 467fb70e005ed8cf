//! Two policies at once.

use crate::{
    Attended, Budgets, Ended, EvictionPolicy, LaneEditor, Needs, Observation, Peak, PolicyError, Ranking,
    Rule, SideChannel, TextSize,
};

/// Two policies over the same cache: an entry lives as long as both let it, the smaller of the two lifetimes.
///
/// Side channels and statistics of the second follow those of the first. Where one decides per KV head, there is a lane
/// per KV head, and the other acts on each alike.
#[derive(Debug, Clone)]
pub struct Both<A, B> {
    first: A,
    second: B,
    first_channels: usize,
    first_needs: Needs,
    second_needs: Needs,
    rules: Option<Vec<Rule>>,
    rankings: Option<Vec<Ranking>>,
}

impl<A: EvictionPolicy, B: EvictionPolicy> Both<A, B> {
    /// The combination of `first` and `second`; the order decides only whose name an entry carries as its
    /// killer when both end it at the same query.
    #[must_use]
    pub fn new(first: A, second: B) -> Self {
        let first_channels = first.side_channels().len();
        let rules = first.rules().zip(second.rules()).map(|both| [both.0, both.1].concat());
        let rankings = first.rankings().zip(second.rankings()).map(|both| [both.0, both.1].concat());
        let (first_needs, second_needs) = (first.needs(), second.needs());
        Self { first, second, first_channels, first_needs, second_needs, rules, rankings }
    }
}

impl<A: EvictionPolicy, B: EvictionPolicy> EvictionPolicy for Both<A, B> {
    fn per_head(&self) -> bool {
        self.first.per_head() || self.second.per_head()
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        let mut channels = self.first.side_channels();
        channels.extend(self.second.side_channels());
        channels
    }

    fn needs(&self) -> Needs {
        self.first_needs.and(self.second_needs)
    }

    fn rules(&self) -> Option<&[Rule]> {
        self.rules.as_deref()
    }

    fn rankings(&self) -> Option<&[Ranking]> {
        self.rankings.as_deref()
    }

    fn peak(&self, text: TextSize) -> Peak {
        self.first.peak(text).and(self.second.peak(text), text.tokens)
    }

    fn peak_in(&self, text: TextSize, layer: usize, head: usize) -> Peak {
        self.first.peak_in(text, layer, head).and(self.second.peak_in(text, layer, head), text.tokens)
    }

    fn budgets(&self, tokens: usize) -> Option<Budgets> {
        Budgets::and(self.first.budgets(tokens), self.second.budgets(tokens))
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.first.decide(seen, lanes)?;
        let shifted = Observation { first_channel: seen.first_channel + self.first_channels, ..*seen };
        self.second.decide(&shifted, lanes)
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.first.after(seen, lanes)?;
        let first_statistic = seen.first_statistic + self.first_needs.statistics;
        self.second.after(&Attended { first_statistic, ..*seen }, lanes)
    }

    fn ended(&self, seen: &Ended<'_>, layers: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        self.first.ended(seen, layers)?;
        let first_statistic = seen.first_statistic + self.first_needs.statistics;
        self.second.ended(&Ended { first_statistic, ..*seen }, layers)
    }
}
