//! One text as it grows: from the engine's events to what a client reads.

use std::collections::BTreeMap;

use dropcap_engine::{FinishReason, Finished, TextStream, TokenLogProb};

use crate::wire::{ChatTokenLogprob, CompletionLogprobs, TopLogprob};
use crate::worker::Event;
use crate::{ApiError, ServedModel};

/// One text of a request.
#[derive(Debug)]
pub(crate) struct Choice {
    stream: TextStream,
    /// Characters so far, an echoed prompt's included.
    characters: usize,
    /// Tokens so far.
    pub(crate) tokens: usize,
    stopped: bool,
    end: Option<End>,
}

/// How a text ended.
#[derive(Debug)]
pub(crate) struct End {
    /// `stop` or `length`.
    pub(crate) reason: &'static str,
    /// What clients cannot tell from that word.
    pub(crate) details: Option<String>,
    pub(crate) finished: Finished,
}

/// What is new of a text.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// What was told of its tokens, each with the place of its text, in characters.
    pub(crate) log_probs: Vec<(TokenLogProb, usize)>,
    /// Whether the text has met a stop string: its sequence is to be ended.
    pub(crate) stopped: bool,
    /// Whether the sequence is over.
    pub(crate) over: bool,
}

impl Choice {
    /// The text that follows `prompt`; it ends before any of `stops`, and with a token of `stop_tokens`.
    pub(crate) fn new(
        model: &ServedModel,
        prompt: &[u32],
        stop_tokens: &[u32],
        stops: Vec<String>,
    ) -> Result<Self, ApiError> {
        let stream = TextStream::new(model.tokenizer.clone(), prompt, stop_tokens, stops)?;
        Ok(Self { stream, characters: 0, tokens: 0, stopped: false, end: None })
    }

    /// Counts an echoed prompt.
    pub(crate) fn echo(&mut self, text: &str) {
        self.characters += text.chars().count();
    }

    /// Takes an event; none where nothing is new.
    pub(crate) fn take(&mut self, event: Event) -> Result<Option<Piece>, ApiError> {
        match event {
            Event::Token(..) if self.stopped => Ok(None),
            Event::Token(token, log_prob) => self.extend(token, log_prob).map(Some),
            Event::Finished(finished) => self.finish(finished).map(Some),
            Event::Failed(error) | Event::Refused(error) => Err(error.into()),
            Event::Accepted | Event::Prompt(_) => Ok(None),
        }
    }

    /// How it ended, once it has.
    pub(crate) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn extend(&mut self, token: u32, log_prob: Option<TokenLogProb>) -> Result<Piece, ApiError> {
        self.tokens += 1;
        let place = self.characters;
        let (text, stopped) = self.stream.push(token)?;
        self.characters += text.chars().count();
        self.stopped = stopped;
        let log_probs = log_prob.into_iter().map(|log_prob| (log_prob, place)).collect();
        Ok(Piece { text, log_probs, stopped, over: false })
    }

    fn finish(&mut self, finished: Finished) -> Result<Piece, ApiError> {
        let (text, stopped) = self.stream.finish()?;
        self.characters += text.chars().count();
        self.stopped |= stopped;
        let (reason, details) = match finished.reason {
            _ if self.stopped => ("stop", None),
            FinishReason::Stop => ("stop", None),
            FinishReason::Length | FinishReason::Cancelled => ("length", None),
            // Clients know no other word for a text that is cut.
            FinishReason::OutOfMemory(shortage) => ("length", Some(shortage.to_string())),
        };
        self.end = Some(End { reason, details, finished });
        Ok(Piece { text, over: true, ..Piece::default() })
    }
}

/// Log-probabilities as completions tell them; none stands for a text's first token.
pub(crate) fn completion_logprobs<'a>(
    model: &ServedModel,
    tokens: impl IntoIterator<Item = (Result<&'a TokenLogProb, u32>, usize)>,
) -> CompletionLogprobs {
    let mut told = CompletionLogprobs::default();
    for (token, place) in tokens {
        let (id, log_prob) = token.map_or_else(|id| (id, None), |told| (told.token, Some(told)));
        told.tokens.push(model.token_text(id).0);
        told.token_logprobs.push(log_prob.map(|told| told.log_prob));
        told.top_logprobs.push(log_prob.map(|told| {
            let top = told.top.iter().map(|&(id, log_prob)| (model.token_text(id).0, log_prob));
            top.collect::<BTreeMap<String, f32>>()
        }));
        told.text_offset.push(place);
    }
    told
}

/// Log-probabilities as conversations tell them.
pub(crate) fn chat_logprobs(model: &ServedModel, told: &[(TokenLogProb, usize)]) -> Vec<ChatTokenLogprob> {
    let of = |id: u32, logprob: f32| {
        let (token, is_text) = model.token_text(id);
        let bytes = is_text.then(|| token.as_bytes().to_vec());
        TopLogprob { token, logprob, bytes }
    };
    let one = |(told, _): &(TokenLogProb, usize)| {
        let TopLogprob { token, logprob, bytes } = of(told.token, told.log_prob);
        let top_logprobs = told.top.iter().map(|&(id, log_prob)| of(id, log_prob)).collect();
        ChatTokenLogprob { token, logprob, bytes, top_logprobs }
    };
    told.iter().map(one).collect()
}
