//! A model in an engine as the judge of texts.

use std::collections::HashMap;
use std::sync::Arc;

use dropcap_engine::{Engine, LogProbs, Output, PromptLogProbs, Request, SequenceId};
use dropcap_model::Tokenizer;

use crate::judge::ids;
use crate::{CompressError, Judge, Reading, Token, Tokens};

/// Requests that wait in the engine beside those that run, so that none that leaves is missed.
const AHEAD: usize = 64;

/// A model that reads many texts side by side.
pub struct ModelJudge<'a> {
    engine: Engine,
    tokenizer: Arc<Tokenizer>,
    positions: usize,
    /// What stands before every text of the model.
    begin: Vec<u32>,
    /// Hears how many tokens have been read.
    read: Box<dyn FnMut(u64) + 'a>,
}

impl<'a> ModelJudge<'a> {
    /// A judge over an idle engine without pruning, whose model has so many positions; `read` hears of every text how many
    /// tokens it had.
    ///
    /// # Errors
    /// A tokenizer that fails on any text.
    pub fn new(
        engine: Engine,
        tokenizer: Arc<Tokenizer>,
        positions: usize,
        read: impl FnMut(u64) + 'a,
    ) -> Result<Self, CompressError> {
        // Text never becomes a control token, so these were put around it.
        let sample = tokenizer.encode("a")?;
        let begin = sample.into_iter().take_while(|&id| tokenizer.is_control(id)).collect();
        Ok(Self { engine, tokenizer, positions, begin, read: Box::new(read) })
    }
}

impl Tokens for ModelJudge<'_> {
    fn tokens(&self, text: &str) -> Result<Vec<Token>, CompressError> {
        self.tokenizer.tokens(text)
    }
}

impl Judge for ModelJudge<'_> {
    fn log_probs(&mut self, readings: Vec<Reading>) -> Result<Vec<Vec<f32>>, CompressError> {
        let mut found: Vec<Vec<f32>> = readings.iter().map(|_| Vec::new()).collect();
        let mut under_way: HashMap<SequenceId, usize> = HashMap::new();
        let mut waiting = readings.into_iter().enumerate();
        loop {
            while under_way.len() < self.engine.running() + AHEAD {
                let Some((index, reading)) = waiting.next() else { break };
                let from = self.begin.len() + reading.from;
                let prompt = [&self.begin[..], &reading.ids].concat();
                if from >= prompt.len() {
                    continue;
                }
                let log_probs = LogProbs { prompt: Some(PromptLogProbs { from, top: 0 }), generated: None };
                let request = Request { prompt, max_tokens: 0, log_probs, ..Request::default() };
                under_way.insert(self.engine.submit(request)?, index);
            }
            if self.engine.is_idle() {
                return Ok(found);
            }
            for output in self.engine.step()? {
                match output {
                    Output::Prompt { id, log_probs, .. } => {
                        if let Some(&index) = under_way.get(&id) {
                            found[index].extend(log_probs.iter().map(|token| token.log_prob));
                        }
                    }
                    Output::Token { .. } => {}
                    Output::Finished(finished) => {
                        under_way.remove(&finished.id);
                        (self.read)(finished.prompt_tokens as u64);
                    }
                    Output::Failed { error, .. } => return Err(error.into()),
                }
            }
        }
    }

    fn positions(&self) -> usize {
        self.positions - self.begin.len()
    }
}

/// The ids of an instruction that leaves the model room for text.
pub(crate) fn instruction_ids(judge: &dyn Judge, instruction: &str) -> Result<Vec<u32>, CompressError> {
    let (ids, limit) = (ids(judge, instruction)?, judge.positions());
    match ids.len() * 2 > limit {
        true => Err(CompressError::LongInstruction { given: ids.len(), limit }),
        false => Ok(ids),
    }
}
