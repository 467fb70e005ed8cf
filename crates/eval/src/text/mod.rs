//! Perplexity of texts, and how far the pruned predictions are from the dense ones.

mod compare;
mod source;
mod windows;

pub use source::TextTask;
pub use windows::{Span, rolling};

use dropcap_engine::Reading;
use dropcap_policy::Needs;
use dropcap_scores::keep_ratio;

use crate::record::{Memory, Outcome, Window};
use crate::subject::{Reader, Subject, TEXT_CHUNK};
use crate::{EvalError, Method};
use compare::Comparison;

/// Rows of logits that are compared at a time.
const ROWS: usize = 64;

/// Reads windows under several methods side by side.
pub(crate) struct TextReaders<'a> {
    subject: &'a Subject,
    /// The dense run first.
    readers: Vec<Reader<'a>>,
}

impl<'a> TextReaders<'a> {
    /// Readers of `methods` beside the dense run, whose policy is `dense`, for prompts of at most so many tokens.
    pub(crate) fn new(
        subject: &'a Subject,
        dense: &'a Method,
        methods: &[&'a Method],
        prompt: usize,
    ) -> Result<Self, EvalError> {
        let all = std::iter::once(dense).chain(methods.iter().copied());
        let needs = all.clone().fold(Needs::default(), |all, method| all.and(method.policy.needs()));
        // All read in the same steps, and what one must see together comes in one.
        let chunk = TEXT_CHUNK.max(needs.together(prompt));
        let readers = all.map(|method| subject.reader(method, chunk)).collect::<Result<_, _>>()?;
        Ok(Self { subject, readers })
    }

    /// What each method, the dense run first, makes of one window: `ids` are what goes in and the last target, `first` the
    /// first input whose prediction counts. The prompt ends after `context` tokens, or with the window where that is 0.
    pub(crate) fn read(
        &mut self,
        ids: &[u32],
        first: usize,
        context: usize,
    ) -> Result<Vec<Outcome>, EvalError> {
        let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        let (team, vocabulary) = (&self.subject.team, self.subject.config.vocabulary);
        let readings = self.readers.iter_mut().map(|reader| reader.begin(inputs.len()));
        let mut readings: Vec<Reading<'_>> = readings.collect::<Result<_, _>>()?;
        let mut outcomes = vec![Window { first, ..Window::default() }; readings.len()];
        let mut comparison = Comparison::new(team, vocabulary);
        let end = if context == 0 { inputs.len() } else { context };
        let needs = readings.iter().fold(Needs::default(), |all, reading| all.and(reading.needs()));
        let chunk = TEXT_CHUNK.max(needs.together(end));
        let mut begin = 0;
        while begin < inputs.len() {
            let stop = if begin < end { end } else { inputs.len() };
            let part = &inputs[begin..begin + needs.cut(end, begin, chunk.min(stop - begin))];
            let counted = first.saturating_sub(begin).min(part.len());
            for reading in &mut readings {
                reading.feed(part, begin + part.len() == end, counted)?;
            }
            for row in (counted..part.len()).step_by(ROWS) {
                let rows = row..part.len().min(row + ROWS);
                let targets = &targets[begin + rows.start..begin + rows.end];
                let (Some((dense, pruned)), Some((outcome, outcomes))) =
                    (readings.split_first_mut(), outcomes.split_first_mut())
                else {
                    continue;
                };
                let expected = dense.logits(rows.clone())?;
                comparison.dense(expected, targets, outcome)?;
                for (reading, outcome) in pruned.iter_mut().zip(outcomes) {
                    comparison.pruned(reading.logits(rows.clone())?, expected, targets, outcome)?;
                }
            }
            begin += part.len();
        }
        let bytes = self.subject.tokenizer.decode(&targets[first..])?.len();
        let finish = |(reading, mut window): (Reading<'_>, Window)| {
            let evaluation = reading.finish()?;
            let lane = |ends: &[u32]| keep_ratio(ends, inputs.len());
            let lanes = |ends: &Vec<u32>| ends.chunks_exact(inputs.len()).map(lane).collect::<Vec<_>>();
            window.keep_by_lane = evaluation.expires_at.iter().map(lanes).collect();
            let all: Vec<f64> = window.keep_by_lane.iter().flatten().copied().collect();
            window.memory = Memory {
                keep: all.iter().sum::<f64>() / all.len().max(1) as f64,
                ..Memory::at_end(&evaluation.report)
            };
            window.bytes = bytes;
            Ok(Outcome::Window(window))
        };
        readings.into_iter().zip(outcomes).map(finish).collect()
    }
}
