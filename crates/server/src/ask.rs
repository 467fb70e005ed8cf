//! From checked parameters to a job of the engine, and to the texts that come of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use dropcap_cache::KvReport;
use dropcap_engine::{EngineError, LogProbs, Request, TokenLogProb};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::ApiError;
use crate::choice::{Choice, Piece};
use crate::parameters::Parameters;
use crate::service::Service;
use crate::wire::{MAX_CHOICES, Usage};
use crate::worker::{Event, Job, end};

/// The texts of one request while they grow.
#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) choices: Vec<Choice>,
    events: UnboundedReceiver<(usize, Event)>,
    ended: Arc<[AtomicBool]>,
    /// Tokens of all prompts, each counted once.
    prompt_tokens: usize,
}

/// What is new of one of the texts.
#[derive(Debug)]
pub(crate) enum New {
    /// Log-probabilities of the prompt.
    Prompt(usize, Vec<TokenLogProb>),
    /// A piece of the text.
    Piece(usize, Piece),
}

impl Texts {
    /// Queues `choices` texts for each of some prompts, and waits until the engine has taken them.
    pub(crate) async fn ask(
        service: &Service,
        prompts: &[Vec<u32>],
        parameters: &Parameters,
        log_probs: LogProbs,
        arrived: Instant,
    ) -> Result<Self, ApiError> {
        let number = texts_of(prompts.len(), parameters.choices)?;
        // The engine says so too, but each text would have a copy by then.
        let limit = service.model.card.max_model_len;
        if let Some(given) = prompts.iter().map(Vec::len).find(|&given| given > limit) {
            return Err(EngineError::PromptTooLong { given, limit }.into());
        }
        let (mut requests, mut choices) = (Vec::with_capacity(number), Vec::with_capacity(number));
        for prompt in prompts {
            for _ in 0..parameters.choices {
                let left = (service.model.card.max_model_len + 1).saturating_sub(prompt.len());
                let sampling = parameters.sampling_of(choices.len());
                requests.push(Request {
                    prompt: prompt.clone(),
                    max_tokens: parameters.max_tokens.unwrap_or(left.max(1)),
                    sampling,
                    stop_tokens: parameters.stop_tokens.clone(),
                    log_probs,
                    context: None,
                    salt: parameters.salt.clone().unwrap_or_default(),
                    kv_budget: parameters.kv_budget,
                });
                let stops = parameters.stops.clone();
                choices.push(Choice::new(&service.model, prompt, &parameters.stop_tokens, stops)?);
            }
        }
        let (sender, events) = unbounded_channel();
        let ended: Arc<[AtomicBool]> = (0..number).map(|_| AtomicBool::new(false)).collect();
        let job = Job { requests, events: sender, ended: ended.clone(), arrived };
        service.inbox.send(job).map_err(|error| match error {
            TrySendError::Full(_) => {
                service.metrics.refused_for("queue_full");
                ApiError::busy("too many requests are waiting: try again when some have ended")
            }
            TrySendError::Closed(_) => ApiError::unavailable(service.status.get().reason()),
        })?;
        let prompt_tokens = prompts.iter().map(Vec::len).sum();
        let mut texts = Self { choices, events, ended, prompt_tokens };
        match texts.events.recv().await {
            Some((_, Event::Accepted)) => Ok(texts),
            Some((_, Event::Refused(error))) => Err(error.into()),
            _ => Err(lost()),
        }
    }

    /// What is new; none when all texts are over.
    pub(crate) async fn next(&mut self) -> Result<Option<New>, ApiError> {
        while self.choices.iter().any(|choice| choice.end().is_none()) {
            let Some((number, event)) = self.events.recv().await else { return Err(lost()) };
            if let Event::Prompt(told) = event {
                return Ok(Some(New::Prompt(number, told)));
            }
            let Some(choice) = self.choices.get_mut(number) else { continue };
            if let Some(piece) = choice.take(event)? {
                if piece.stopped {
                    end(&self.ended, number);
                }
                return Ok(Some(New::Piece(number, piece)));
            }
        }
        Ok(None)
    }

    /// What all of them cost, once they are over.
    pub(crate) fn usage(&self, method: &str) -> Usage {
        let finished = || self.choices.iter().filter_map(|choice| Some(&choice.end()?.finished));
        let completion = self.choices.iter().map(|choice| choice.tokens).sum();
        let report: KvReport = finished().map(|finished| finished.report).sum();
        // Choices of one prompt share it, and it is counted once.
        let cached = finished().map(|finished| finished.cached_tokens).sum::<usize>().min(self.prompt_tokens);
        let budget = finished().filter_map(|finished| finished.kv_budget).max();
        Usage::new(self.prompt_tokens, completion, cached, method, report, budget)
    }
}

/// How many texts a request asks for.
///
/// # Errors
/// More than one request may ask for.
pub(crate) fn texts_of(prompts: usize, choices: usize) -> Result<usize, ApiError> {
    let number = prompts.saturating_mul(choices);
    if number <= MAX_CHOICES {
        return Ok(number);
    }
    let message = format!(
        "{prompts} prompts with n = {choices} are {number} texts: one request may ask for {MAX_CHOICES}"
    );
    Err(ApiError::parameter("n", message))
}

fn lost() -> ApiError {
    ApiError::failed("the engine has failed, and the text is lost")
}
