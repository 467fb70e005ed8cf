//! One step: what the host sends, what it gets back.

use dropcap_kernels::cuda::{DeviceSpan, Row, StepSize};
use dropcap_kernels::lifetimes::PromptCut;
use dropcap_kernels::sampling::NOT_FINITE;
use dropcap_policy::Stage;

use super::decoder::DeviceDecoder;
use super::launch::Mode;
use super::rules::{Cut, DeviceCut};
use super::turns::{Turn, turns};
use super::{DeviceOutcome, Slot};
use crate::ModelError;

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub struct DeviceSegment<'a> {
    /// Where its cache is.
    pub slot: &'a Slot,
    /// New tokens, at least one.
    pub ids: &'a [u32],
    /// Position of the first of them: how many the cache has seen.
    pub first_position: u32,
    /// Where in the text they lie.
    pub stage: Stage,
    /// The text's own budget ([`dropcap_policy::Span::budget`]); of windows it is no part.
    pub budget: Option<u32>,
    /// What should come back.
    pub wanted: Wanted,
}

/// What a segment wants of its logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// Nothing: a prompt chunk that is not the last.
    Nothing,
    /// A token after the last row, drawn with this number in [0, 1).
    Token {
        /// The number.
        random: f32,
    },
    /// The logits of the rows from one on, and a token too if there is a number to draw it with.
    Logits {
        /// The first row.
        from: usize,
        /// The number in [0, 1).
        random: Option<f32>,
    },
}

impl Wanted {
    /// The number to draw a token with.
    pub(super) fn random(self) -> Option<f32> {
        match self {
            Self::Nothing => None,
            Self::Token { random } => Some(random),
            Self::Logits { random, .. } => random,
        }
    }

    /// The first row whose logits are wanted.
    pub(super) fn logits_from(self) -> Option<usize> {
        match self {
            Self::Logits { from, .. } => Some(from),
            Self::Nothing | Self::Token { .. } => None,
        }
    }
}

/// Some rows of logits of one segment, which come in order, when its token is known.
#[derive(Debug, Clone, Copy)]
pub struct DeviceRows<'a> {
    /// Number of the segment.
    pub segment: usize,
    /// The first of the rows.
    pub first_row: usize,
    /// The segment's token, if it wanted one, or the index of its first logit that is not finite.
    pub drawn: Option<Result<u32, usize>>,
    /// f32 `[rows, v]`.
    pub logits: &'a [f32],
}

/// Takes the rows that segments want, as many at a time as the device has room for.
pub type RowSink<'a> = &'a mut dyn FnMut(DeviceRows<'_>);

impl DeviceDecoder {
    /// Runs one step.
    ///
    /// On return every slot has grown by its segment's tokens and has freed what died. Segments of one token that want a
    /// token are decoded together by a recorded graph; the others follow. `rows` takes the logits that are wanted.
    ///
    /// # Errors
    /// Before anything is done: a token outside the vocabulary, a position beyond the model's, an empty segment, more
    /// rows than the decoder was made for, a slot of another decoder or one that stands twice, more pages than are free
    /// ([`DeviceDecoder::free_pages`]). Afterwards: more deaths than there is room to tell of; lanes that the device
    /// refused to let grow, which damages the step's sequences alone; a failed device, and then the decoder is of no
    /// use.
    pub fn step(
        &mut self,
        segments: &[DeviceSegment<'_>],
        rows: RowSink<'_>,
    ) -> Result<DeviceOutcome, ModelError> {
        self.check(segments)?;
        self.clear_left()?;
        self.check_pages(&self.growth(segments)?)?;
        if let Some(deaths) = &self.deaths {
            deaths.count.write(0, &[0])?;
        }
        let mut outcome = DeviceOutcome::of(segments.len());
        for Turn { parts, numbers, firsts } in turns(segments, self.needs()) {
            let taken = self.turn(&parts, &mut |of_part| {
                let first_row = of_part.first_row + firsts[of_part.segment];
                rows(DeviceRows { segment: numbers[of_part.segment], first_row, ..of_part });
            })?;
            for ((&number, token), state) in numbers.iter().zip(taken.tokens).zip(taken.states) {
                outcome.tokens[number] = token;
                outcome.states[number] = state;
            }
        }
        self.peak_pages = self.peak_pages.max(self.capacity() - self.free_pages);
        if let Some(deaths) = &self.deaths {
            let count = deaths.count.read()?[0] as usize;
            if count > deaths.records.len() {
                return Err(ModelError::TooManyDeaths { count, limit: deaths.records.len() });
            }
            outcome.deaths = deaths.records.read_range(0, count)?;
            let order = |slot: u32| segments.iter().position(|segment| segment.slot.index() == slot);
            outcome
                .deaths
                .sort_unstable_by_key(|death| (order(death.slot), death.layer, death.group, death.position));
        }
        Ok(outcome)
    }

    /// What attends at the same time.
    fn turn(
        &mut self,
        segments: &[DeviceSegment<'_>],
        rows: RowSink<'_>,
    ) -> Result<DeviceOutcome, ModelError> {
        let decodes = |segment: &DeviceSegment<'_>| {
            // A prompt's end may cut, which is no part of the graph.
            let cuts = !self.rules.cuts.is_empty() || self.ranker.is_some();
            let recorded = segment.stage == Stage::Behind || !cuts;
            segment.ids.len() == 1 && segment.wanted.random().is_some() && recorded
        };
        let (decoding, rest): (Vec<usize>, Vec<usize>) =
            (0..segments.len()).partition(|&index| decodes(&segments[index]));
        let mut outcome = DeviceOutcome::of(segments.len());
        if !decoding.is_empty() {
            self.decode(segments, &decoding, &mut outcome, rows)?;
        }
        if !rest.is_empty() {
            self.prefill(segments, &rest, &mut outcome, rows)?;
        }
        Ok(outcome)
    }

    fn check(&self, segments: &[DeviceSegment<'_>]) -> Result<(), ModelError> {
        let config = self.config();
        for segment in segments {
            if segment.ids.is_empty() {
                return Err(ModelError::EmptyInput);
            }
            self.check_place(segment)?;
            let end = segment.first_position as usize + segment.ids.len();
            if end > config.max_positions {
                return Err(ModelError::TooManyPositions { wanted: end, limit: config.max_positions });
            }
            if let Some(&id) = segment.ids.iter().find(|&&id| id as usize >= config.vocabulary) {
                return Err(ModelError::TokenOutsideVocabulary { id, vocabulary: config.vocabulary });
            }
        }
        let rows: usize = segments.iter().map(|segment| segment.ids.len()).sum();
        let limit = self.inputs.rows.len();
        if rows > limit || segments.len() > self.options.max_batch {
            return Err(ModelError::StepTooLarge {
                rows,
                limit,
                spans: segments.len(),
                batch: self.options.max_batch,
            });
        }
        Ok(())
    }

    /// Slots, each once, and by how many tokens they grow.
    fn growth(&self, segments: &[DeviceSegment<'_>]) -> Result<Vec<(usize, usize)>, ModelError> {
        let mut taken = vec![false; self.options.max_batch];
        let growth = |segment: &DeviceSegment<'_>| {
            let slot = self.number(segment.slot)?;
            if std::mem::replace(&mut taken[slot], true) {
                let index = segment.slot.index();
                return Err(ModelError::Slot { index, problem: "stands twice in one step" });
            }
            Ok((slot, segment.ids.len()))
        };
        segments.iter().map(growth).collect()
    }

    /// All tokens of `chosen`, as they come.
    fn prefill(
        &mut self,
        segments: &[DeviceSegment<'_>],
        chosen: &[usize],
        outcome: &mut DeviceOutcome,
        sink: RowSink<'_>,
    ) -> Result<(), ModelError> {
        let (mut rows, mut spans) = (Vec::new(), Vec::new());
        let (mut logit_rows, mut slots, mut randoms, mut sampled) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for &index in chosen {
            let segment = &segments[index];
            let (slot, count) = (segment.slot.index(), segment.ids.len() as u32);
            let first_row = rows.len() as u32;
            spans.push(DeviceSpan {
                slot,
                first_row,
                queries: count,
                first_position: segment.first_position,
            });
            rows.extend(segment.ids.iter().zip(0..).map(|(&token, i)| Row {
                slot,
                token,
                position: segment.first_position + i,
                back: (count - i) | if segment.stage == Stage::Behind { 0 } else { Row::IN_PROMPT },
            }));
            if let Some(random) = segment.wanted.random() {
                logit_rows.push(first_row + count - 1);
                slots.push(slot);
                randoms.push(random);
                sampled.push(index);
            }
        }
        let size = StepSize { rows: rows.len(), spans: spans.len() };
        self.inputs.rows.write(0, &rows)?;
        self.inputs.spans.write(0, &spans)?;
        let observed: Vec<DeviceSpan> = match &self.ranker {
            Some(ranker) => {
                let counts = |&(_, &index): &(&DeviceSpan, &usize)| ranker.observes(segments[index].stage);
                spans.iter().zip(chosen).filter(counts).map(|(span, _)| *span).collect()
            }
            None => Vec::new(),
        };
        self.expect(&observed)?;
        self.run_layers(size, Mode::Prefill { spans: &spans, observed: &observed })?;
        if !sampled.is_empty() {
            self.scratch.logit_rows.write(0, &logit_rows)?;
            self.sampling.slots.write(0, &slots)?;
            self.sampling.randoms.write(0, &randoms)?;
            self.head(sampled.len())?;
            self.sample(sampled.len())?;
        }
        let tokens = self.sampling.tokens.read_range(0, sampled.len())?;
        for (&index, &word) in sampled.iter().zip(&tokens) {
            outcome.tokens[index] = Some(token(word));
        }
        for (&index, span) in chosen.iter().zip(&spans) {
            if let Some(from) = segments[index].wanted.logits_from() {
                self.read_logits(span, from, &mut |first_row, logits| {
                    let drawn = outcome.tokens[index];
                    sink(DeviceRows { segment: index, first_row, drawn, logits });
                })?;
            }
        }
        let chosen_segments: Vec<DeviceSegment<'_>> = chosen.iter().map(|&index| segments[index]).collect();
        let ending: Vec<DeviceSegment<'_>> =
            chosen_segments.iter().copied().filter(|segment| segment.stage == Stage::PromptEnd).collect();
        self.cut(&ending)?;
        self.learn_changes(&chosen_segments)?;
        if let Some(ranker) = self.ranker.as_ref().filter(|_| !observed.is_empty()) {
            let of = |segment| ranker.budgets(Some(segment), self.similarities(segment));
            let budgets = chosen_segments.iter().flat_map(of);
            ranker.send(&budgets.collect::<Vec<_>>())?;
            let tokens = spans.iter().map(|span| (span.first_position + span.queries) as usize).max();
            self.prune(size, tokens.unwrap_or(0))?;
        }
        self.renumber(&ending)?;
        self.reclaim(size)?;
        let status = self.status.read()?;
        let slots: Vec<usize> = spans.iter().map(|span| span.slot as usize).collect();
        self.note(&slots, &status)?;
        self.follow_on(&ending)?;
        for (&index, &slot) in chosen.iter().zip(&slots) {
            outcome.states[index] = self.states[slot];
        }
        Ok(())
    }

    /// The logits of the rows of a span from one on, as many at a time as there is room for.
    fn read_logits(
        &self,
        span: &DeviceSpan,
        from: usize,
        sink: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        let (room, vocabulary) = (self.scratch.logit_rows.len(), self.config().vocabulary);
        let stride = self.weights.head().outputs();
        let rows: Vec<u32> = (span.first_row..span.first_row + span.queries).skip(from).collect();
        let mut first = from;
        // For all chunks in turn.
        let mut logits = vec![0.0; room.min(rows.len()) * stride];
        for rows in rows.chunks(room.max(1)) {
            self.scratch.logit_rows.write(0, rows)?;
            self.head(rows.len())?;
            let logits = &mut logits[..rows.len() * stride];
            self.scratch.logits.read_into(0, logits)?;
            // The head's outputs may be padded: rows move together.
            for row in (1..rows.len()).filter(|_| stride > vocabulary) {
                logits.copy_within(row * stride..row * stride + vocabulary, row * vocabulary);
            }
            sink(first, &logits[..rows.len() * vocabulary]);
            first += rows.len();
        }
        Ok(())
    }

    /// What the policy drops where prompts end.
    fn cut(&self, ending: &[DeviceSegment<'_>]) -> Result<(), ModelError> {
        for segment in ending {
            let n = segment.first_position + segment.ids.len() as u32;
            // One rule at a time: two may cut the same entry.
            for DeviceCut { cut, floors, heads } in &self.rules.cuts {
                let (positions, recent) = match cut {
                    Cut::Prompt(cut) => (cut.dropped(n, segment.budget.filter(|_| heads.is_none())), 0),
                    Cut::WindowBehind { sinks, recent } => (*sinks..n, *recent),
                };
                let cut = PromptCut {
                    slot: segment.slot.index(),
                    first: positions.start,
                    end: positions.end,
                    recent,
                    expires_at: n,
                    killer: n - 1,
                    floor_sinks: floors.sinks,
                    floor_recent: floors.recent,
                };
                self.kernels.lifetimes.cut(&self.lanes, &[cut], heads.as_ref())?;
            }
        }
        Ok(())
    }
}

/// What the sampler says: a token, or the index of a logit that is not finite.
pub(super) fn token(word: u32) -> Result<u32, usize> {
    if word & NOT_FINITE == 0 { Ok(word) } else { Err((word & !NOT_FINITE) as usize) }
}
