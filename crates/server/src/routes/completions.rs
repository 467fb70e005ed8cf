//! `/v1/completions`: a text is continued.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use dropcap_engine::{LogProbs, PromptLogProbs, TokenLogProb};

use super::tokens::off_the_reactor;
use crate::account::Account;
use crate::ask::{New, Texts, texts_of};
use crate::choice::{Piece, completion_logprobs};
use crate::parameters::{Parameters, at_most};
use crate::service::{Service, random_id};
use crate::sse::{self, Chunks, Gone};
use crate::wire::{Completion, CompletionChoice, CompletionRequest, MAX_LOGPROBS, PromptInput, Usage};
use crate::{ApiError, ServedModel, body};

/// Tokens to generate where the request leaves it open, as for the official routes.
const MAX_TOKENS: usize = 16;

/// Continues a text, or several.
#[utoipa::path(post, path = "/v1/completions", request_body = CompletionRequest, responses(
    (status = 200, description = "The texts, or a stream of what is new of them", body = Completion),
    (status = 400, description = "Something is wrong with the request", body = crate::error::ErrorBody),
    (status = 429, description = "Too many requests wait", body = crate::error::ErrorBody),
))]
pub(super) async fn completions(
    State(service): State<Service>,
    Extension(account): Extension<Arc<Account>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (asked, room): (CompletionRequest, _) = body::json(request, &service).await?;
    let parameters = parameters(&asked, &service.model)?;
    let (echo, top) = (asked.echo.unwrap_or_default(), asked.logprobs);
    let top = top.map(|top| at_most("logprobs", top, 0, MAX_LOGPROBS)).transpose()?;
    let (model, input) = (service.model.clone(), asked.prompt);
    // Before they become tokens, which a million of them would take seconds for.
    texts_of(input.as_ref().map_or(1, PromptInput::len), parameters.choices)?;
    let prompts = off_the_reactor(move || prompts(&model, input)).await?;
    drop(room);
    let log_probs =
        LogProbs { generated: top, prompt: top.filter(|_| echo).map(|top| PromptLogProbs { from: 1, top }) };
    let texts = Texts::ask(&service, &prompts, &parameters, log_probs, account.began()).await?;
    let mut answer = Answer::new(service, account, texts, prompts, parameters, echo, top.is_some())?;
    if answer.parameters.stream {
        let account = answer.account.clone();
        Ok(sse::response(account, |chunks| async move { answer.stream(chunks).await }))
    } else {
        Ok(Json(answer.whole().await?).into_response())
    }
}

fn parameters(asked: &CompletionRequest, model: &ServedModel) -> Result<Parameters, ApiError> {
    let mut parameters = Parameters::read(&asked.common(), model)?;
    parameters.max_tokens.get_or_insert(MAX_TOKENS);
    if asked.suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::parameter("suffix", "suffix is not supported: leave it out"));
    }
    if let Some(best_of) = asked.best_of
        && best_of != 1
        && best_of != asked.n.unwrap_or(1)
    {
        let message =
            format!("best_of is {best_of}: only 1 and n are supported; use n and choose among them");
        return Err(ApiError::parameter("best_of", message));
    }
    Ok(parameters)
}

/// The tokens of every prompt, each at least one.
fn prompts(model: &ServedModel, input: Option<PromptInput>) -> Result<Vec<Vec<u32>>, ApiError> {
    let prompts = match input {
        None => vec![model.begun(Vec::new())?],
        Some(PromptInput::Text(text)) => vec![model.encode(&text)?],
        Some(PromptInput::Texts(texts)) => {
            texts.iter().map(|text| model.encode(text)).collect::<Result<_, _>>()?
        }
        Some(PromptInput::Ids(ids)) => vec![model.begun(ids)?],
        Some(PromptInput::Lists(lists)) => {
            lists.into_iter().map(|ids| model.begun(ids)).collect::<Result<_, _>>()?
        }
    };
    if prompts.is_empty() {
        return Err(ApiError::parameter("prompt", "prompt is an empty list: it must hold at least one"));
    }
    Ok(prompts)
}

/// An answer under way.
struct Answer {
    service: Service,
    account: Arc<Account>,
    texts: Texts,
    parameters: Parameters,
    /// What each choice echoes: its prompt's tokens and text.
    echoed: Vec<Option<(Vec<u32>, String)>>,
    has_logprobs: bool,
    id: String,
    created: u64,
}

impl Answer {
    fn new(
        service: Service,
        account: Arc<Account>,
        mut texts: Texts,
        prompts: Vec<Vec<u32>>,
        parameters: Parameters,
        echo: bool,
        has_logprobs: bool,
    ) -> Result<Self, ApiError> {
        let mut echoed = Vec::with_capacity(texts.choices.len());
        for (number, choice) in texts.choices.iter_mut().enumerate() {
            let prompt = &prompts[number / parameters.choices];
            echoed.push(match echo {
                true => {
                    let text = service.model.tokenizer.decode(prompt)?;
                    choice.echo(&text);
                    Some((prompt.clone(), text))
                }
                false => None,
            });
        }
        let (id, created) = (random_id("cmpl-"), super::seconds());
        Ok(Self { service, account, texts, parameters, echoed, has_logprobs, id, created })
    }

    async fn whole(&mut self) -> Result<Completion, ApiError> {
        let mut wholes: Vec<CompletionChoice> =
            (0..self.texts.choices.len()).map(|number| self.choice(number, String::new())).collect();
        let mut told: Vec<Vec<TokenLogProb>> = vec![Vec::new(); wholes.len()];
        while let Some(new) = self.texts.next().await? {
            match new {
                New::Prompt(number, log_probs) => told[number].extend(log_probs),
                New::Piece(number, piece) => self.add(&mut wholes[number], piece),
            }
        }
        for (number, whole) in wholes.iter_mut().enumerate() {
            if let Some((ids, text)) = &self.echoed[number] {
                whole.text.insert_str(0, text);
                if let Some(logprobs) = &mut whole.logprobs {
                    let mut first = echoed_logprobs(&self.service.model, ids, &told[number]);
                    first.tokens.append(&mut logprobs.tokens);
                    first.token_logprobs.append(&mut logprobs.token_logprobs);
                    first.top_logprobs.append(&mut logprobs.top_logprobs);
                    first.text_offset.append(&mut logprobs.text_offset);
                    *logprobs = first;
                }
            }
            if let Some(end) = self.texts.choices[number].end() {
                (whole.finish_reason, whole.finish_details) = (Some(end.reason), end.details.clone());
            }
        }
        let usage = self.usage();
        self.account.finish(usage.clone());
        Ok(self.completion(wholes, Some(usage)))
    }

    async fn stream(mut self, chunks: Chunks) -> Result<(), Gone> {
        match self.pieces(&chunks).await? {
            Ok(()) => {}
            Err(error) => return chunks.fail(&error).await,
        }
        let usage = self.usage();
        if self.parameters.include_usage {
            chunks.send(&self.completion(Vec::new(), Some(usage.clone()))).await?;
        }
        self.account.finish(usage);
        chunks.done().await
    }

    /// Sends all pieces; the inner error is one of the texts.
    async fn pieces(&mut self, chunks: &Chunks) -> Result<Result<(), ApiError>, Gone> {
        let keep_alive = self.service.options.keep_alive;
        let mut told: Vec<Vec<TokenLogProb>> = vec![Vec::new(); self.texts.choices.len()];
        loop {
            let new = match chunks.while_read(keep_alive, self.texts.next()).await? {
                Ok(Some(new)) => new,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            };
            let (number, piece) = match new {
                New::Prompt(number, log_probs) => {
                    told[number].extend(log_probs);
                    continue;
                }
                New::Piece(number, piece) => (number, piece),
            };
            if let Some((ids, text)) = self.echoed[number].take() {
                let mut echo = self.choice(number, text);
                if self.has_logprobs {
                    echo.logprobs = Some(echoed_logprobs(&self.service.model, &ids, &told[number]));
                }
                chunks.send(&self.completion(vec![echo], None)).await?;
            }
            let over = piece.over;
            let mut choice = self.choice(number, String::new());
            self.add(&mut choice, piece);
            if let Some(end) = self.texts.choices[number].end().filter(|_| over) {
                (choice.finish_reason, choice.finish_details) = (Some(end.reason), end.details.clone());
            }
            let is_new = choice.logprobs.as_ref().is_some_and(|told| !told.tokens.is_empty());
            if over || is_new || !choice.text.is_empty() {
                chunks.send(&self.completion(vec![choice], None)).await?;
            }
        }
    }

    fn choice(&self, index: usize, text: String) -> CompletionChoice {
        let logprobs = self.has_logprobs.then(Default::default);
        CompletionChoice { index, text, logprobs, finish_reason: None, finish_details: None }
    }

    fn add(&self, choice: &mut CompletionChoice, piece: Piece) {
        choice.text.push_str(&piece.text);
        if let Some(logprobs) = &mut choice.logprobs {
            let tokens = piece.log_probs.iter().map(|(told, place)| (Ok(told), *place));
            let new = completion_logprobs(&self.service.model, tokens);
            logprobs.tokens.extend(new.tokens);
            logprobs.token_logprobs.extend(new.token_logprobs);
            logprobs.top_logprobs.extend(new.top_logprobs);
            logprobs.text_offset.extend(new.text_offset);
        }
    }

    fn completion(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> Completion {
        let (id, created, model) = (self.id.clone(), self.created, self.service.model.card.id.clone());
        Completion { id, object: "text_completion", created, model, choices, usage }
    }

    fn usage(&self) -> Usage {
        self.texts.usage(&self.service.model.card.method)
    }
}

/// Log-probabilities of an echoed prompt, whose first token follows nothing.
fn echoed_logprobs(
    model: &ServedModel,
    ids: &[u32],
    told: &[TokenLogProb],
) -> crate::wire::CompletionLogprobs {
    let mut place = 0;
    let tokens = ids.iter().enumerate().map(|(position, &id)| {
        let start = place;
        place += model.token_text(id).0.chars().count();
        (position.checked_sub(1).and_then(|before| told.get(before)).ok_or(id), start)
    });
    completion_logprobs(model, tokens)
}
