//! A model in an engine as the judge of texts.

use std::sync::Arc;

use dropcap_engine::{Engine, drive};
use dropcap_model::Tokenizer;

use crate::judge::ids;
use crate::{CompressError, Judge, Reading, Token, Tokens};

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
        let begin = beginning(&tokenizer)?;
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
        let begin = &self.begin;
        let requests = readings.into_iter().map(|reading| reading.request(begin)).enumerate();
        let requests = requests.filter_map(|(index, request)| Some((index, request?)));
        let read = &mut self.read;
        drive(&mut self.engine, requests, |index, answered| {
            found[index] = answered.log_probs.iter().map(|token| token.log_prob).collect();
            read(answered.prompt_tokens as u64);
            Ok::<(), CompressError>(())
        })?;
        Ok(found)
    }

    fn positions(&self) -> usize {
        self.positions - self.begin.len()
    }
}

/// What a tokenizer puts before every text.
///
/// # Errors
/// A tokenizer that fails on any text.
pub fn beginning(tokenizer: &Tokenizer) -> Result<Vec<u32>, CompressError> {
    // Text never becomes a control token, so these were put around it.
    let sample = tokenizer.encode("a")?;
    Ok(sample.into_iter().take_while(|&id| tokenizer.is_control(id)).collect())
}

/// The ids of an instruction that leaves the model room for text.
pub(crate) fn instruction_ids(judge: &dyn Judge, instruction: &str) -> Result<Vec<u32>, CompressError> {
    let (ids, limit) = (ids(judge, instruction)?, judge.positions());
    match ids.len() * 2 > limit {
        true => Err(CompressError::LongInstruction { given: ids.len(), limit }),
        false => Ok(ids),
    }
}
