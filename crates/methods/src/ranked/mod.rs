//! Methods that rank: a scorer says what entries are worth, a budget how many stay.

mod budget;
mod keep;
mod layer;
mod live;
mod looks;
mod recipe;
mod scorer;
mod turned;

pub(crate) use budget::{HeadTable, Heads, Layers};
pub(crate) use layer::Layer;
pub(crate) use recipe::{AMOUNT, EVERY, MakeRecipe, RECENT, Recipe, SINKS, WHEN, build, check};
pub(crate) use scorer::{Looks, Scorer};

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use dropcap_policy::{
    Attended, Budgets, Cadence, Ended, EvictionPolicy, Floors, LaneEditor, Needs, Observation, Peak,
    PolicyError, Ranking, RankingBudget, Rule, Span, TextSize,
};

use budget::Budget;
use live::Live;

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
            // A draw is about the mean of all heads, and kernels know what each has.
            Heads::Table(_) if scorer.draws() => None,
            Heads::Alike | Heads::Table(_) => Some(None),
            // One row for all heads has nobody to share with.
            Heads::Adaptive { floor } => Some(scorer.per_head().then_some(floor)),
            Heads::Weighed { .. } => None,
        };
        let data = scorer.data().zip(share).map(|(score, share)| Ranking {
            score,
            per_head: scorer.per_head(),
            cadence,
            stride: scorer.stride(),
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
        taken: Option<&[Vec<f32>]>,
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
        self.scorer.observe(&Layer::all(seen, span, lanes, own.clone()).having(taken), &mut rows)?;
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
    fn prune(
        &self,
        seen: &Attended<'_>,
        span: &Span,
        similarities: &[f64],
        taken: Option<&[Vec<f32>]>,
        lanes: &mut LaneEditor<'_>,
    ) -> Result<(), PolicyError> {
        let next = span.next_position();
        let place = (seen.layer, seen.layers);
        let kept = self.budget.kept_knowing(next, span.budget, place, similarities) as usize;
        let own = self.own(seen.first_statistic);
        let layer = Layer::all(seen, span, lanes, own).having(taken).next(self.scorer.ordered(), kept);
        let kept = kept + self.scorer.beside(&layer);
        let counts: Vec<usize> = (0..lanes.groups()).map(|group| layer.positions(group).len()).collect();
        if !self.budget.is_exceeded(seen.layer, &counts, kept) {
            return Ok(());
        }
        let scores = self.scorer.score(&layer)?;
        let live = layer.into_live();
        self.end_losers(seen.layer, &scores, &live, next, kept, lanes);
        Ok(())
    }

    /// Ends what is not among the best `kept` of each head on average, by rows of scores: of each head, or one row for the
    /// positions that any has.
    fn end_losers(
        &self,
        layer: usize,
        scores: &[Vec<f32>],
        live: &[Live],
        next: u32,
        kept: usize,
        lanes: &mut LaneEditor<'_>,
    ) {
        let mut ended: Vec<(usize, usize)> = Vec::new();
        if self.scorer.per_head() {
            let positions: Vec<&[u32]> =
                (0..scores.len()).map(|head| &*live[head.min(live.len() - 1)].positions).collect();
            let stays = self.budget.share_out(layer, scores, &positions, next, kept);
            for (group, stays) in stays.iter().enumerate() {
                let losers = live[group].entries.iter().zip(stays).filter(|(_, stays)| !**stays);
                ended.extend(losers.map(|(&entry, _)| (group, entry)));
            }
        } else {
            let positions = Live::all_positions(live);
            let stays = self.budget.share_out(layer, scores, &[&positions], next, kept);
            let losers = positions.iter().zip(&stays[0]).filter(|(_, stays)| !**stays);
            if let [only] = live {
                // Its order is that of the flags.
                let ends = only.entries.iter().zip(&stays[0]).filter(|(_, stays)| !**stays);
                ended.extend(ends.map(|(&entry, _)| (0, entry)));
            } else {
                // In the order of their positions.
                let losers: Vec<u32> = losers.map(|(&position, _)| position).collect();
                for (group, live) in live.iter().enumerate() {
                    let lives = live.entries.iter().zip(&live.positions);
                    let ends = lives.filter(|(_, position)| losers.binary_search(position).is_ok());
                    ended.extend(ends.map(|(&entry, _)| (group, entry)));
                }
            }
        }
        for (group, entry) in ended {
            lanes.lower(group, entry, next, next - 1);
        }
    }

    /// Leaves scores beside the entries, for when all layers have theirs.
    fn note(
        &self,
        seen: &Attended<'_>,
        span: &Span,
        taken: Option<&[Vec<f32>]>,
        lanes: &mut LaneEditor<'_>,
    ) -> Result<(), PolicyError> {
        let kept = self.budget.kept(span.next_position(), span.budget, seen.layer, seen.layers) as usize;
        let own = self.own(seen.first_statistic);
        let layer = Layer::all(seen, span, lanes, own).having(taken).next(true, kept);
        let mut scores = self.scorer.score(&layer)?;
        if !self.scorer.per_head() {
            let (all, row) = (layer.all_positions(), scores.remove(0));
            let of = |position: &u32| all.binary_search(position).map_or(f32::NAN, |place| row[place]);
            scores =
                (0..layer.lanes()).map(|group| layer.positions(group).iter().map(of).collect()).collect();
        }
        let live = layer.into_live();
        let place = seen.first_statistic + self.scorer.statistics();
        for (group, (live, scores)) in live.iter().zip(scores).enumerate() {
            let row = lanes.lane(group).statistics().len() / lanes.lane(group).len().max(1);
            let statistics = lanes.statistics(group);
            live.entries
                .iter()
                .zip(scores)
                .for_each(|(&entry, score)| statistics[entry * row + place] = score);
        }
        Ok(())
    }

    /// The scores of a layer that [`Ranked::note`] left at this place in the row of an entry.
    fn noted(&self, place: usize, live: &[Live], lanes: &LaneEditor<'_>) -> Vec<Vec<f32>> {
        let of_group = |group: usize| -> Vec<f32> {
            let lane = lanes.lane(group);
            let row = lane.statistics().len() / lane.len().max(1);
            live[group].entries.iter().map(|&entry| lane.statistics()[entry * row + place]).collect()
        };
        if self.scorer.per_head() {
            return (0..live.len()).map(of_group).collect();
        }
        let pairs = live.iter().enumerate().flat_map(|(group, live)| {
            live.positions.iter().copied().zip(of_group(group)).collect::<Vec<_>>()
        });
        let by_position: BTreeMap<u32, f32> = pairs.collect();
        vec![Live::all_positions(live).iter().map(|position| by_position[position]).collect()]
    }

    /// What it asks for.
    fn wants(&self) -> Needs {
        let squeezed = matches!(self.budget.layers, Layers::Squeezed { .. });
        Needs {
            after: self.cadence,
            stride: self.scorer.stride(),
            // A score waits beside its entry until all layers have theirs.
            statistics: self.scorer.statistics() + usize::from(squeezed),
            together: self.scorer.together(),
            layers: squeezed,
            ..Needs::default()
        }
    }

    /// The statistics of the scorer in the row of an entry.
    fn own(&self, first: usize) -> Range<usize> {
        first..first + self.scorer.statistics()
    }

    /// Whether it waits for all layers before it ends anything behind these tokens.
    fn waits(&self, span: &Span) -> bool {
        matches!(self.budget.layers, Layers::Squeezed { .. }) && span.prompt_ends()
    }

    /// Tells the statistics of what was there that some went, where a prompt is read chunk by chunk.
    fn settle(&self, seen: &Attended<'_>, span: &Span, lanes: &mut LaneEditor<'_>) {
        if self.scorer.stride() == 0 {
            return;
        }
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
        self.wants()
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
        let (needs, taken) = (self.wants(), self.take_looks(seen, lanes)?);
        for (number, (span, lanes)) in seen.spans.iter().zip(lanes).enumerate() {
            // Beside another policy there may be calls that this one did not ask for.
            if !needs.heeds(span) {
                continue;
            }
            let taken = taken.get(number).and_then(Option::as_deref);
            if self.scorer.statistics() > 0 {
                self.observe(seen, span, taken, lanes)?;
            }
            if !needs.acts(span) {
                continue;
            }
            if self.waits(span) {
                self.note(seen, span, taken, lanes)?;
            } else {
                let similarities = seen.similarities.get(number).map_or(&[][..], Vec::as_slice);
                self.prune(seen, span, similarities, taken, lanes)?;
                self.settle(seen, span, lanes);
            }
        }
        Ok(())
    }

    fn ended(&self, seen: &Ended<'_>, layers: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        if !self.waits(seen.span) {
            return Ok(());
        }
        let (next, own, number) = (seen.span.next_position(), seen.span.budget, layers.len());
        for (layer, lanes) in layers.iter_mut().enumerate() {
            let kept = self.budget.kept_knowing(next, own, (layer, number), seen.similarities) as usize;
            let live: Vec<Live> =
                (0..lanes.groups()).map(|group| Live::of(lanes.lane(group), next, true)).collect();
            if live.iter().all(|live| live.entries.len() <= kept) {
                continue;
            }
            let scores = self.noted(seen.first_statistic + self.scorer.statistics(), &live, lanes);
            self.end_losers(layer, &scores, &live, next, kept, lanes);
        }
        Ok(())
    }
}
