//! A policy's ranking, brought to the device.

use std::ops::Range;

use dropcap_kernels::RopeTable;
use dropcap_kernels::attention::ToldScores;
use dropcap_kernels::cuda::{Device, DeviceBuffer, DeviceSpan, PinnedBuffer, Specialisation, StepSize};
use dropcap_kernels::ranking::{DeviceRanking, RankingSettings, RankingSize, Score, Turns};
use dropcap_policy::{Cadence, EvictionPolicy, Ranking, Stage};

use super::DeviceSegment;
use super::decoder::DeviceDecoder;
use crate::weights::rope_table;
use crate::{DecoderConfig, ModelError};

/// What stays untouched in [`Ranker::budgets`].
const UNTOUCHED: u32 = u32::MAX;

/// The ranking of a policy, its kernels, and what a step tells them.
#[derive(Debug)]
pub(super) struct Ranker {
    ranking: Ranking,
    kernels: DeviceRanking,
    /// Entries that stay, `[spans][layers][groups]`.
    kept: DeviceBuffer<u32>,
    /// What decode steps tell, where sums go on behind the prompt.
    told: Option<ToldScores>,
    /// What the attention of prompts tells of its rows, f32 `[rows, h]`, where sums of it are wanted.
    sums: Option<DeviceBuffer<f32>>,
    /// Of the sequences of a step the mean rotation of the positions to come, `[spans][pairs]`, where queries are expected.
    coming: Option<DeviceBuffer<[f32; 2]>>,
    layers: usize,
    groups: usize,
}

/// The ranking that a device can carry out for a policy, if it ranks.
///
/// # Errors
/// What about it exists for the processor alone.
pub(super) fn accepted(
    policy: &dyn EvictionPolicy,
    config: &DecoderConfig,
) -> Result<Option<Ranking>, ModelError> {
    let unsupported = |what: &str| Err(ModelError::DeviceMethod { what: what.to_owned() });
    match policy.rankings() {
        None => unsupported("ranks entries in code alone"),
        Some([]) => Ok(None),
        Some([Ranking { score: Score::Compact { columns, .. }, .. }]) if *columns > Score::MOST_COLUMNS => {
            let most = Score::MOST_COLUMNS;
            unsupported(&format!("sketches keys in {columns} columns, where a device has room for {most}"))
        }
        Some([ranking]) if !ranking.per_head && policy.per_head() && config.kv_heads > 1 => {
            unsupported("ranks for all heads alike beside one that forgets per head")
        }
        Some([ranking]) => Ok(Some(ranking.clone())),
        Some(_) => unsupported("ranks entries in two ways"),
    }
}

/// f32 numbers beside each entry.
pub(super) fn statistics(ranking: Option<&Ranking>) -> usize {
    ranking.map_or(0, |ranking| ranking.score.statistics())
}

impl Ranker {
    /// `pages` bounds the pool; `pairs` of numbers of a head are turned by positions.
    pub(super) fn new(
        device: &Device,
        specialisation: &Specialisation,
        ranking: Ranking,
        size: RankingSize,
        pages: usize,
        pairs: usize,
    ) -> Result<Self, ModelError> {
        let settings = RankingSettings {
            score: ranking.score,
            counted: ranking.counted,
            floors: ranking.floors,
            share: ranking.share,
        };
        let kernels = DeviceRanking::new(device, specialisation, settings, size)?;
        let tells = matches!(ranking.cadence, Cadence::Every(_))
            && matches!(ranking.score, Score::Attention { .. } | Score::Softened { .. });
        let told = tells
            .then(|| ToldScores::new(device, specialisation, kernels.told_pages(pages), size.spans))
            .transpose()?;
        let groups = specialisation.groups;
        let kept = DeviceBuffer::zeroed(device, "budgets", size.spans * size.layers * groups)?;
        let coming = matches!(ranking.score, Score::Expected { .. })
            .then(|| DeviceBuffer::zeroed(device, "rotations to come", size.spans * pairs))
            .transpose()?;
        let sums = ranking
            .score
            .hears()
            .then(|| {
                let rows = size.rows * specialisation.query_heads;
                DeviceBuffer::uninitialized(device, "the sums of attention", rows)
            })
            .transpose()?;
        Ok(Self { ranking, kernels, kept, told, sums, coming, layers: size.layers, groups })
    }

    /// Tokens between two times to act behind a prompt; 0 where nothing more goes there.
    pub(super) fn every(&self) -> u32 {
        match self.ranking.cadence {
            Cadence::Every(tokens) => tokens,
            Cadence::Prompt | Cadence::Never => 0,
        }
    }

    /// Budgets of a sequence: one for each lane.
    pub(super) fn lanes(&self) -> usize {
        self.layers * self.groups
    }

    /// What a decode step's attention should tell.
    pub(super) fn told(&self) -> Option<&ToldScores> {
        self.told.as_ref()
    }

    /// Where the attention of prompts should tell the sums of its rows.
    pub(super) fn sums(&self) -> Option<&DeviceBuffer<f32>> {
        self.sums.as_ref()
    }

    /// Whether attention of tokens at this stage counts.
    pub(super) fn observes(&self, stage: Stage) -> bool {
        match stage {
            Stage::Prompt => self.ranking.score.gathers(),
            Stage::PromptEnd => true,
            Stage::Behind => self.every() > 0,
        }
    }

    /// How many entries of each lane stay behind a segment, `[layers][groups]`; `similarities` of its layers, where they are asked for.
    pub(super) fn budgets(&self, segment: Option<&DeviceSegment<'_>>, similarities: &[f64]) -> Vec<u32> {
        // Fits: the step's positions have been checked.
        let next = |segment: &DeviceSegment<'_>| segment.first_position + segment.ids.len() as u32;
        let acts = |segment: &&DeviceSegment<'_>| match segment.stage {
            Stage::Prompt => is_time(self.ranking.stride, next(segment)),
            Stage::PromptEnd => true,
            Stage::Behind => is_time(self.every(), next(segment)),
        };
        let Some(segment) = segment.filter(acts) else { return vec![UNTOUCHED; self.lanes()] };
        let (layers, groups) = (self.layers, self.groups);
        self.ranking.budget.kept_of_heads(next(segment), segment.budget, similarities, layers, groups)
    }

    /// Sends the budgets of a step.
    pub(super) fn send(&self, kept: &[u32]) -> Result<(), ModelError> {
        Ok(self.kept.write(0, kept)?)
    }

    /// The same in a recording.
    pub(super) fn send_pinned(&self, kept: &PinnedBuffer<u32>) -> Result<(), ModelError> {
        Ok(self.kept.write_pinned(kept)?)
    }

    /// Sends the rotations that are to come behind spans, where they are read.
    fn expect(&self, spans: &[DeviceSpan], rope: &RopeTable) -> Result<(), ModelError> {
        let (Score::Expected { future, .. }, Some(coming)) = (self.ranking.score, &self.coming) else {
            return Ok(());
        };
        let means = spans.iter().flat_map(|span| {
            let next = span.first_position + span.queries;
            mean_rotation(rope, next..next.saturating_add(future))
        });
        Ok(coming.write(0, &means.collect::<Vec<_>>())?)
    }
}

/// Whether a text of so many tokens has a multiple of `every`; of 0 none has.
fn is_time(every: u32, tokens: u32) -> bool {
    every > 0 && tokens.is_multiple_of(every)
}

/// The mean over positions of the cosine and sine of each pair.
fn mean_rotation(rope: &RopeTable, positions: Range<u32>) -> Vec<[f32; 2]> {
    let mean = |frequency: &f32| {
        let angles = positions.clone().map(|position| f64::from(position as f32 * frequency));
        let mut sums = [0.0, 0.0];
        for angle in angles {
            for (sum, part) in sums.iter_mut().zip([angle.cos(), angle.sin()]) {
                *sum += f64::from(part as f32 * rope.attention_scaling);
            }
        }
        sums.map(|sum: f64| (sum / positions.len().max(1) as f64) as f32)
    };
    rope.inv_freq.iter().map(mean).collect()
}

impl DeviceDecoder {
    /// Sends what the queries of spans need beside themselves.
    pub(super) fn expect(&self, spans: &[DeviceSpan]) -> Result<(), ModelError> {
        match (&self.ranker, rope_table(self.config())) {
            (Some(ranker), Some(rope)) => ranker.expect(spans, &rope),
            _ => Ok(()),
        }
    }

    /// Adds what the queries of spans gave in a layer; `told` says whether attention has told the sums of its rows.
    pub(super) fn observe(&self, spans: &[DeviceSpan], layer: usize, told: bool) -> Result<(), ModelError> {
        let Some(ranker) = &self.ranker else { return Ok(()) };
        let scale = self.weights.config.attention_scale(layer);
        for (sequence, span) in spans.iter().enumerate() {
            let turns =
                self.turning().map(|turning| Turns { turning, coming: ranker.coming.as_ref(), sequence });
            let sums = ranker.sums().filter(|_| told);
            ranker.kernels.observe(&self.lanes, span, (layer, scale), &self.scratch.qkv, sums, turns)?;
        }
        Ok(())
    }

    /// Adds what a decode step's queries gave in a layer to the sums of before.
    pub(super) fn observe_decoded(&self, size: StepSize, layer: usize) -> Result<(), ModelError> {
        if let Some((ranker, told)) = self.ranker.as_ref().and_then(|ranker| Some((ranker, ranker.told()?))) {
            ranker.kernels.observe_decoded(&self.lanes, &self.inputs, size, layer, told)?;
        }
        Ok(())
    }

    /// Ends what is beyond the budgets that were sent, of sequences of at most `tokens` tokens.
    pub(super) fn prune(&self, size: StepSize, tokens: usize) -> Result<(), ModelError> {
        if let Some(ranker) = &self.ranker {
            ranker.kernels.prune(&self.lanes, &self.inputs, size, &ranker.kept, tokens)?;
        }
        Ok(())
    }
}
