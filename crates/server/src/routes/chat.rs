//! `/v1/chat/completions`: a conversation is continued.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::Request;
use axum::response::{IntoResponse, Response};
use dropcap_engine::{LogProbs, TokenLogProb};
use dropcap_model::chat::{Value, Variables};

use super::tokens::off_the_reactor;
use crate::account::Account;
use crate::ask::{New, Texts};
use crate::choice::chat_logprobs;
use crate::parameters::{Parameters, at_most};
use crate::service::{Service, random_id};
use crate::sse::{self, Chunks, Gone};
use crate::wire::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs, ChatRequest, ChatResponse, Delta,
    MAX_LOGPROBS, MAX_MESSAGES, MAX_TOOLS_BYTES, Message, Role, ToolChoice, Usage,
};
use crate::{ApiError, ServedModel, body};

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatRequest, responses(
    (status = 200, description = "The answers, or a stream of what is new of them", body = ChatResponse),
    (status = 400, description = "Something is wrong with the request", body = crate::error::ErrorBody),
    (status = 429, description = "Too many requests wait", body = crate::error::ErrorBody),
))]
pub(super) async fn chat_completions(
    State(service): State<Service>,
    Extension(account): Extension<Arc<Account>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (asked, room): (ChatRequest, _) = body::json(request, &service).await?;
    let (parameters, top) = parameters(&asked, &service.model)?;
    let model = service.model.clone();
    let none = matches!(&asked.tool_choice, Some(ToolChoice::Mode(mode)) if mode == "none");
    let tools = asked.tools.filter(|_| !none);
    let (messages, extra) = (asked.messages, asked.chat_template_kwargs);
    let encode = move || encode(&model, &messages, tools.as_deref(), extra.as_ref());
    let prompt = off_the_reactor(encode).await?;
    drop(room);
    let log_probs = LogProbs { generated: top, prompt: None };
    let texts = Texts::ask(&service, &[prompt], &parameters, log_probs, account.began()).await?;
    let (id, created) = (random_id("chatcmpl-"), super::seconds());
    let mut answer = Answer { service, account, texts, parameters, has_logprobs: top.is_some(), id, created };
    if answer.parameters.stream {
        let account = answer.account.clone();
        Ok(sse::response(account, |chunks| async move { answer.stream(chunks).await }))
    } else {
        Ok(Json(answer.whole().await?).into_response())
    }
}

/// The tokens of a conversation.
pub(super) fn encode(
    model: &ServedModel,
    messages: &[Message],
    tools: Option<&[Value]>,
    extra: Option<&Variables>,
) -> Result<Vec<u32>, ApiError> {
    if messages.len() > MAX_MESSAGES {
        let message = format!("messages holds {}: it may hold {MAX_MESSAGES}", messages.len());
        return Err(ApiError::parameter("messages", message));
    }
    let Some(template) = &model.template else {
        let message = "this model has no chat template, so the server knows no conversations: use /v1/completions, \
                       or start the server with --chat-template FILE";
        return Err(ApiError { code: Some("no_chat_template"), ..ApiError::invalid(message) });
    };
    let messages = messages.iter().map(Message::said).collect::<Result<Vec<_>, _>>()?;
    let ids = template.encode(&model.tokenizer, &messages, tools, extra)?;
    model.tokenizer.check_ids(&ids, model.vocabulary)?;
    Ok(ids)
}

/// The parameters, and how many of the likeliest tokens are told beside each, if log-probabilities are.
fn parameters(asked: &ChatRequest, model: &ServedModel) -> Result<(Parameters, Option<usize>), ApiError> {
    let mut common = asked.common();
    if let Some(most) = asked.max_completion_tokens {
        common.max_tokens = Some(most);
    }
    let parameters = Parameters::read(&common, model)?;
    if let Some(format) = asked.response_format.as_ref().filter(|format| format.kind != "text") {
        let message = format!("response_format {:?} is not supported: leave it out", format.kind);
        return Err(ApiError::parameter("response_format", message));
    }
    match &asked.tool_choice {
        None => {}
        Some(ToolChoice::Mode(mode)) if mode == "auto" || mode == "none" => {}
        Some(_) => {
            let message = "tool_choice may be \"auto\" or \"none\": a call cannot be forced";
            return Err(ApiError::parameter("tool_choice", message));
        }
    }
    let bytes = |name: &str, value: Option<String>| match value.filter(|json| json.len() > MAX_TOOLS_BYTES) {
        Some(json) => {
            let message = format!("{name} has {} bytes: it may have {MAX_TOOLS_BYTES}", json.len());
            Err(ApiError::parameter(name, message))
        }
        None => Ok(()),
    };
    bytes("tools", asked.tools.as_ref().and_then(|tools| serde_json::to_string(tools).ok()))?;
    let extra = asked.chat_template_kwargs.as_ref();
    bytes("chat_template_kwargs", extra.and_then(|extra| serde_json::to_string(extra).ok()))?;
    let top = asked.top_logprobs.map(|top| at_most("top_logprobs", top, 0, MAX_LOGPROBS)).transpose()?;
    match (asked.logprobs.unwrap_or_default(), top) {
        (true, top) => Ok((parameters, Some(top.unwrap_or_default()))),
        (false, None | Some(0)) => Ok((parameters, None)),
        (false, Some(_)) => {
            Err(ApiError::parameter("top_logprobs", "top_logprobs goes with logprobs: set logprobs to true"))
        }
    }
}

/// An answer under way.
struct Answer {
    service: Service,
    account: Arc<Account>,
    texts: Texts,
    parameters: Parameters,
    has_logprobs: bool,
    id: String,
    created: u64,
}

impl Answer {
    async fn whole(&mut self) -> Result<ChatResponse, ApiError> {
        let mut answers: Vec<(String, Vec<(TokenLogProb, usize)>)> =
            self.texts.choices.iter().map(|_| Default::default()).collect();
        while let Some(new) = self.texts.next().await? {
            if let New::Piece(number, piece) = new {
                answers[number].0.push_str(&piece.text);
                answers[number].1.extend(piece.log_probs);
            }
        }
        let choice = |(index, (content, told)): (usize, (String, Vec<_>))| {
            let end = self.texts.choices[index].end();
            ChatChoice {
                index,
                message: AssistantMessage { role: Role::Assistant, content },
                logprobs: self.logprobs(&told),
                finish_reason: end.map_or("length", |end| end.reason),
                finish_details: end.and_then(|end| end.details.clone()),
            }
        };
        let choices = answers.into_iter().enumerate().map(choice).collect();
        let usage = self.usage();
        self.account.finish(usage.clone());
        let (id, created, model) = (self.id.clone(), self.created, self.service.model.card.id.clone());
        Ok(ChatResponse { id, object: "chat.completion", created, model, choices, usage })
    }

    async fn stream(mut self, chunks: Chunks) -> Result<(), Gone> {
        for index in 0..self.texts.choices.len() {
            let delta = Delta { role: Some(Role::Assistant), content: Some(String::new()) };
            chunks.send(&self.chunk(vec![self.choice(index, delta)], None)).await?;
        }
        match self.pieces(&chunks).await? {
            Ok(()) => {}
            Err(error) => return chunks.fail(&error).await,
        }
        let usage = self.usage();
        if self.parameters.include_usage {
            chunks.send(&self.chunk(Vec::new(), Some(usage.clone()))).await?;
        }
        self.account.finish(usage);
        chunks.done().await
    }

    /// Sends all pieces; the inner error is one of the texts.
    async fn pieces(&mut self, chunks: &Chunks) -> Result<Result<(), ApiError>, Gone> {
        let keep_alive = self.service.options.keep_alive;
        loop {
            let (number, piece) = match chunks.while_read(keep_alive, self.texts.next()).await? {
                Ok(Some(New::Piece(number, piece))) => (number, piece),
                Ok(Some(New::Prompt(..))) => continue,
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            };
            if !piece.text.is_empty() || !piece.log_probs.is_empty() {
                let mut choice = self.choice(number, Delta { role: None, content: Some(piece.text) });
                choice.logprobs = self.logprobs(&piece.log_probs);
                chunks.send(&self.chunk(vec![choice], None)).await?;
            }
            if let Some(end) = self.texts.choices[number].end().filter(|_| piece.over) {
                let mut choice = self.choice(number, Delta::default());
                (choice.finish_reason, choice.finish_details) = (Some(end.reason), end.details.clone());
                chunks.send(&self.chunk(vec![choice], None)).await?;
            }
        }
    }

    fn choice(&self, index: usize, delta: Delta) -> ChatChunkChoice {
        ChatChunkChoice { index, delta, logprobs: None, finish_reason: None, finish_details: None }
    }

    fn logprobs(&self, told: &[(TokenLogProb, usize)]) -> Option<ChatLogprobs> {
        self.has_logprobs.then(|| ChatLogprobs { content: chat_logprobs(&self.service.model, told) })
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        let (id, created, model) = (self.id.clone(), self.created, self.service.model.card.id.clone());
        ChatChunk { id, object: "chat.completion.chunk", created, model, choices, usage }
    }

    fn usage(&self) -> Usage {
        self.texts.usage(&self.service.model.card.method)
    }
}
