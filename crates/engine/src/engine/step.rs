//! One step: plan, run, record, take what came out.

use dropcap_cache::Death;

use super::Engine;
use crate::backend::{Answer, Feed, Given};
use crate::schedule::{Share, Standing, plan};
use crate::sequence::Sequence;
use crate::{EngineError, FinishReason, Output};

impl Engine {
    /// Moves everything on that fits, or makes room.
    pub(super) fn advance(&mut self, outputs: &mut Vec<Output>) -> Result<(), EngineError> {
        self.admit()?;
        // What was kept for later yields to what runs.
        self.yield_prefixes(|engine| {
            let tokens = |sequence: &Sequence| sequence.feedable().clamp(1, engine.options.chunk);
            let wanted = engine.running.iter().map(|sequence| sequence.pages_for(tokens(sequence)));
            wanted.sum::<usize>() <= engine.backend.free_pages()
        })?;
        let shares = self.plan();
        if shares.is_empty() {
            return self.make_room(outputs);
        }
        let answers = self.run(&shares)?;
        self.record(&shares);
        self.keep_beginnings()?;
        self.take(&shares, answers, outputs);
        Ok(())
    }

    fn plan(&self) -> Vec<Share> {
        let needs = self.demand.needs();
        let standing = |sequence: &Sequence| {
            let fed = sequence.memory.next_position() as usize;
            let most = self.prefixes.as_ref().map_or(usize::MAX, |kept| kept.feedable(fed));
            let feedable = sequence.feedable();
            Standing {
                prefilling: sequence.is_prefilling(),
                // A place where a cache would be kept yields to tokens that must come together.
                feedable: match sequence.cut(needs, feedable.min(most)) {
                    0 => feedable,
                    whole => whole,
                },
                reserved: self.reserved(sequence),
            }
        };
        let standings: Vec<Standing> = self.running.iter().map(standing).collect();
        let pages = |index: usize, tokens| self.running[index].pages_for(tokens);
        let cut = |index: usize, tokens| self.running[index].cut(needs, tokens);
        plan(&standings, self.options.chunk, self.backend.free_pages(), pages, cut)
    }

    /// The forward pass of one planned step: what every share got.
    fn run(&mut self, shares: &[Share]) -> Result<Vec<Answer>, EngineError> {
        let mut feeds: Vec<Feed<'_>> = Vec::with_capacity(shares.len());
        let mut told = Vec::with_capacity(shares.len());
        let mut planned = shares.iter().peekable();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            let Some(share) = planned.next_if(|share| share.index == index) else { continue };
            sequence.mark_started();
            told.push((sequence.id.0, sequence.is_replaying()));
            feeds.push(sequence.feed(share.tokens));
        }
        let per_head = self.demand.per_head();
        let recorder = &mut self.recorder;
        let mut died = |feed: usize, layer, lane, death: Death| {
            let (id, replaying) = told[feed];
            if let Some(recorder) = recorder.as_mut().filter(|_| !replaying) {
                recorder.died(id, layer, per_head.then_some(lane), death);
            }
        };
        let answers = self.backend.run(&mut feeds, &mut died)?;
        if let Some(recorder) = &mut self.recorder {
            recorder.scored(&told.iter().map(|&(id, _)| id).collect::<Vec<_>>());
        }
        Ok(answers)
    }

    /// Writes the step's tokens and deaths to the trace.
    fn record(&mut self, shares: &[Share]) {
        let Some(recorder) = &mut self.recorder else { return };
        for share in shares {
            recorder.fed(&mut self.running[share.index]);
        }
        recorder.end_step();
    }

    /// Gives every sequence its new token, and takes out those that are over.
    fn take(&mut self, shares: &[Share], answers: Vec<Answer>, outputs: &mut Vec<Output>) {
        let mut over = Vec::new();
        for (share, answer) in shares.iter().zip(answers) {
            let sequence = &mut self.running[share.index];
            match answer {
                Ok(given) => {
                    if let Some(reason) = deliver(sequence, given, outputs) {
                        over.push((share.index, Ok(reason)));
                    }
                }
                Err(error) => over.push((share.index, Err(error))),
            }
        }
        // From the back, so that earlier indices stay true.
        let mut ended = Vec::with_capacity(over.len());
        for (index, outcome) in over.into_iter().rev() {
            let sequence = self.running.remove(index);
            ended.push(match outcome {
                Ok(reason) => Output::Finished(self.end(sequence, reason)),
                Err(error) => self.fail(sequence, error),
            });
        }
        outputs.extend(ended.into_iter().rev());
    }
}

/// Tells of what a sequence was given, and why it is over, if it is.
fn deliver(sequence: &mut Sequence, given: Given, outputs: &mut Vec<Output>) -> Option<FinishReason> {
    let id = sequence.id;
    if !given.prompt.is_empty() {
        let first = sequence.tell(given.prompt.len());
        outputs.push(Output::Prompt { id, first, log_probs: given.prompt });
    }
    match given.token {
        Some((token, log_prob)) => {
            outputs.push(Output::Token { id, token, log_prob });
            sequence.extend(token)
        }
        None => sequence.is_told().then_some(FinishReason::Length),
    }
}
