//! Methods that rank: a scorer says what entries are worth, a budget how many stay.

mod budget;
mod keep;
mod layer;
mod live;
mod recipe;
mod scorer;
mod turned;

pub(crate) use budget::{HeadTable, Heads, Layers};
pub(crate) use layer::Layer;
pub(crate) use recipe::{AMOUNT, EVERY, MakeRecipe, RECENT, Recipe, SINKS, WHEN, build, check};
pub(crate) use scorer::Scorer;

use std::collections::HashSet;
use std::sync::Arc;

use dropcap_policy::{
    Attended, Budgets, Cadence, EvictionPolicy, Floors, LaneEditor, Needs, Observation, Peak, PolicyError,
    Ranking, RankingBudget, Rule, Span, TextSize,
};

use budget::Budget;

/// A policy that lets a budget of the best entries stay, as a scorer ranks them: when a prompt ends, every so many tokens from
/// there on, and for some within the prompt.
///
/// What it ends has been seen by the query that ended it.
#[derive(Debug)]
pub(crate) struct Ranked {
    scorer: Box<dyn Scorer>,
    budget: Budget,
    cadence: Cadence,
    /// All of it as data, where the scorer is.
    data: Option<Ranking>,
}

impl Ranked {
    /// The policy of a scorer under a budget; `cadence` is never [`Cadence::Never`].
    pub(crate) fn new(scorer: Box<dyn Scorer>, budget: Budget, cadence: Cadence) -> Self {
        let share = match budget.heads {
            Heads::Alike => Some(None),
            Heads::Adaptive { floor } => Some(Some(floor)),
            Heads::Weighed { .. } | Heads::Table(_) => None,
        };
        let timed = matches!(cadence, Cadence::Prompt | Cadence::EVERY_QUERY) && scorer.stride() == 0;
        let sayable = scorer.data().zip(share).filter(|_| timed);
        let data = sayable.map(|(score, share)| Ranking {
            score,
            per_head: scorer.per_head(),
            cadence,
            budget: Arc::new(budget.clone()),
            share,
            counted: budget.floors,
            floors: Floors::default(),
        });
        Self { scorer, budget, cadence, data }
    }

    /// Brings statistics up to date.
    fn observe(
        &self,
        seen: &Attended<'_>,
        span: &Span,
        lanes: &mut LaneEditor<'_>,
    ) -> Result<(), PolicyError> {
        let width = self.scorer.statistics();
        let own = seen.first_statistic..seen.first_statistic + width;
        let mut rows: Vec<Vec<f32>> = (0..lanes.groups())
            .map(|group| {
                let lane = lanes.lane(group);
                let row = lane.statistics().len() / lane.len().max(1);
                let entries = lane.statistics().chunks_exact(row.max(1));
                entries.flat_map(|entry| &entry[own.clone()]).copied().collect()
            })
            .collect();
        self.scorer.observe(&Layer::all(seen, span, lanes, own.clone()), &mut rows)?;
        for (group, rows) in rows.iter().enumerate() {
            let row = lanes.lane(group).statistics().len() / lanes.lane(group).len().max(1);
            let entries = lanes.statistics(group).chunks_exact_mut(row.max(1));
            for (entry, new) in entries.zip(rows.chunks_exact(width)) {
                entry[own.clone()].copy_from_slice(new);
            }
        }
        Ok(())
    }

    /// Ends what is beyond the budget.
    fn prune(&self, seen: &Attended<'_>, span: &Span, lanes: &mut LaneEditor<'_>) -> Result<(), PolicyError> {
        let next = span.next_position();
        let own = seen.first_statistic..seen.first_statistic + self.scorer.statistics();
        let kept = self.budget.kept(next, span.budget, seen.layer, seen.layers) as usize;
        let layer = Layer::all(seen, span, lanes, own).next(self.scorer.ordered(), kept);
        let kept = kept + self.scorer.beside(&layer);
        if (0..lanes.groups()).all(|group| layer.positions(group).len() <= kept) {
            return Ok(());
        }
        let scores = self.scorer.score(&layer)?;
        let mut ended: Vec<(usize, usize)> = Vec::new();
        if self.scorer.per_head() {
            let positions: Vec<&[u32]> = (0..scores.len()).map(|head| layer.positions(head)).collect();
            let stays = self.budget.share_out(seen.layer, &scores, &positions, next, kept);
            for (group, stays) in stays.iter().enumerate() {
                let losers = layer.live(group).entries.iter().zip(stays).filter(|(_, stays)| !**stays);
                ended.extend(losers.map(|(&entry, _)| (group, entry)));
            }
        } else {
            let positions = layer.all_positions();
            let stays = self.budget.share_out(seen.layer, &scores, &[&positions], next, kept);
            let losers = positions.iter().zip(&stays[0]).filter(|(_, stays)| !**stays);
            let losers: HashSet<u32> = losers.map(|(&position, _)| position).collect();
            for group in 0..lanes.groups() {
                let lives = layer.live(group).entries.iter().zip(layer.positions(group));
                let ends = lives.filter(|(_, position)| losers.contains(position));
                ended.extend(ends.map(|(&entry, _)| (group, entry)));
            }
        }
        for (group, entry) in ended {
            lanes.lower(group, entry, next, next - 1);
        }
        Ok(())
    }

    /// Tells the statistics of what was there that some went.
    fn settle(&self, seen: &Attended<'_>, span: &Span, lanes: &mut LaneEditor<'_>) {
        let own = seen.first_statistic..seen.first_statistic + self.scorer.statistics();
        for group in 0..lanes.groups() {
            let positions = lanes.lane(group).positions().to_vec();
            let row = lanes.lane(group).statistics().len() / positions.len().max(1);
            let entries = positions.iter().zip(lanes.statistics(group).chunks_exact_mut(row.max(1)));
            let there = entries.filter(|(position, _)| **position < span.next_position());
            there.for_each(|(_, row)| self.scorer.settle(&mut row[own.clone()]));
        }
    }
}

impl EvictionPolicy for Ranked {
    fn per_head(&self) -> bool {
        self.scorer.per_head()
    }

    fn needs(&self) -> Needs {
        Needs {
            after: self.cadence,
            stride: self.scorer.stride(),
            statistics: self.scorer.statistics(),
            together: self.scorer.together(),
        }
    }

    /// Before attention it does nothing.
    fn rules(&self) -> Option<&[Rule]> {
        Some(&[])
    }

    fn rankings(&self) -> Option<&[Ranking]> {
        self.data.as_ref().map(std::slice::from_ref)
    }

    fn peak(&self, text: TextSize) -> Peak {
        self.budget.peak(self.cadence, self.scorer.stride(), text)
    }

    fn budgets(&self, tokens: usize) -> Option<Budgets> {
        Some(self.budget.budgets(tokens))
    }

    fn decide(&self, _seen: &Observation<'_>, _lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        Ok(())
    }

    fn after(&self, seen: &Attended<'_>, lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        for (span, lanes) in seen.spans.iter().zip(lanes) {
            // Beside another policy there may be calls that this one did not ask for.
            if !self.needs().heeds(span) {
                continue;
            }
            if self.scorer.statistics() > 0 {
                self.observe(seen, span, lanes)?;
            }
            if self.needs().acts(span) {
                self.prune(seen, span, lanes)?;
                self.settle(seen, span, lanes);
            }
        }
        Ok(())
    }
}
