//! Two policies at once.

use crate::{EvictionPolicy, Granularity, Lanes, Observation, PolicyError, Rule, SideChannel};

/// Two policies over the same cache: an entry lives as long as both let it, the smaller of the two lifetimes.
///
/// The side channels of the second follow those of the first. Where one decides per KV head, there is a lane
/// per KV head, and a [`Granularity::Layer`] policy acts on each alike.
#[derive(Debug, Clone)]
pub struct Both<A, B> {
    first: A,
    second: B,
    first_channels: usize,
}

impl<A: EvictionPolicy, B: EvictionPolicy> Both<A, B> {
    /// The combination of `first` and `second`; the order decides only whose name an entry carries as its
    /// killer when both end it at the same query.
    #[must_use]
    pub fn new(first: A, second: B) -> Self {
        let first_channels = first.side_channels().len();
        Self { first, second, first_channels }
    }
}

impl<A: EvictionPolicy, B: EvictionPolicy> EvictionPolicy for Both<A, B> {
    fn granularity(&self) -> Granularity {
        self.first.granularity().finer(self.second.granularity())
    }

    fn side_channels(&self) -> Vec<SideChannel> {
        let mut channels = self.first.side_channels();
        channels.extend(self.second.side_channels());
        channels
    }

    fn rules(&self) -> Option<Vec<Rule>> {
        let mut rules = self.first.rules()?;
        rules.extend(self.second.rules()?);
        Some(rules)
    }

    fn decide(&self, seen: &Observation<'_>, lanes: &mut [Lanes<'_>]) -> Result<(), PolicyError> {
        self.first.decide(seen, lanes)?;
        let shifted = Observation { first_channel: seen.first_channel + self.first_channels, ..*seen };
        self.second.decide(&shifted, lanes)
    }
}
