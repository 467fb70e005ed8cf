//! `/v1/compress`: a shorter text.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::Request;
use dropcap_compress::{
    Closeness, CompressError, Compressed, GivenVectors, Language, Tokens, context, longcodezip, perplexity,
};
use dropcap_methods::Amount;

use super::seconds;
use crate::account::Account;
use crate::parameters::at_most;
use crate::reading::ServedJudge;
use crate::service::{Service, random_id};
use crate::wire::{
    Budget, CompressMethod, CompressRequest, CompressedText, KeptSpan, MAX_COMPRESS_TOKENS, Usage,
};
use crate::{ApiError, body};

/// Makes a text shorter, as `dropcap compress` does, judged by the served model.
#[utoipa::path(post, path = "/v1/compress", request_body = CompressRequest, responses(
    (status = 200, description = "What stays", body = CompressedText),
    (status = 400, description = "Something is wrong with the request", body = crate::error::ErrorBody),
    (status = 429, description = "Too many requests wait", body = crate::error::ErrorBody),
))]
pub(super) async fn compress(
    State(service): State<Service>,
    Extension(account): Extension<Arc<Account>>,
    request: Request<Body>,
) -> Result<Json<CompressedText>, ApiError> {
    let (asked, _room): (CompressRequest, _) = body::json(request, &service).await?;
    let asked = Asked::read(asked, &service)?;
    let place = service.compressing.clone().try_acquire_owned().map_err(|_| {
        service.metrics.refused_for("queue_full");
        ApiError::busy("as many texts as may be are being made shorter: try again when some are done")
    })?;
    let salt = asked.salt.clone();
    let (mut judge, _waiting) = ServedJudge::new(service.clone(), salt).map_err(|error| refusal(&error))?;
    let shorten = move || {
        // The place is free when the thread is done, also where nobody waits for it any more.
        let _place = place;
        let kept = asked.shorten(&mut judge).map_err(|error| refusal(&error))?;
        Ok::<CompressedText, ApiError>(asked.answer(&kept, judge.usage()))
    };
    let done = tokio::task::spawn_blocking(shorten).await;
    let mut answer = done.map_err(|_| ApiError::failed("the text could not be made shorter"))??;
    answer.model = service.model.card.id.clone();
    account.finish(answer.usage.clone());
    Ok(Json(answer))
}

/// A request, within its ranges.
struct Asked {
    text: String,
    budget: Amount,
    instruction: String,
    method: CompressMethod,
    language: Language,
    vectors: GivenVectors,
    rule: Closeness,
    salt: String,
}

impl Asked {
    fn read(asked: CompressRequest, service: &Service) -> Result<Self, ApiError> {
        service.model.check_name(asked.model.as_deref())?;
        let instruction = asked.instruction.unwrap_or_default();
        let has_instruction = !instruction.trim().is_empty();
        let method = asked.method.unwrap_or(match has_instruction {
            true => CompressMethod::Longcodezip,
            false => CompressMethod::Perplexity,
        });
        if method != CompressMethod::Perplexity && !has_instruction {
            return Err(ApiError::parameter(
                "instruction",
                "this method keeps what helps with an instruction: give one, or take the method perplexity",
            ));
        }
        let is_context = method == CompressMethod::Context;
        for (name, given) in [
            ("vectors", asked.vectors.is_some()),
            ("percentile", asked.percentile.is_some()),
            ("floor", asked.floor.is_some()),
            ("volume", asked.volume.is_some()),
        ] {
            if given && !is_context {
                let message = format!("{name} is for the method context: leave it out");
                return Err(ApiError::parameter(name, message));
            }
        }
        let default = Closeness::default();
        let rule = Closeness {
            percentile: within("percentile", asked.percentile, 0.0, 100.0)?.unwrap_or(default.percentile),
            floor: within("floor", asked.floor, -1.0, 1.0)?.unwrap_or(default.floor),
            volume: match asked.volume {
                Some(given) => at_most("volume", given, 1, usize::MAX)?,
                None => default.volume,
            },
        };
        let language = match asked.language {
            None => Language::Text,
            Some(name) => name
                .parse()
                .map_err(|error: CompressError| ApiError::parameter("language", error.to_string()))?,
        };
        Ok(Self {
            text: asked.text,
            budget: budget(&asked.budget)?,
            instruction,
            method,
            language,
            vectors: vectors(asked.vectors, is_context)?,
            rule,
            salt: asked.cache_salt.unwrap_or_default(),
        })
    }

    fn shorten(&self, judge: &mut ServedJudge) -> Result<Compressed, CompressError> {
        let Self { text, budget, instruction, .. } = self;
        let given = judge.tokens(text)?.len();
        if given > MAX_COMPRESS_TOKENS {
            return Err(CompressError::LongText { given, limit: MAX_COMPRESS_TOKENS });
        }
        match self.method {
            CompressMethod::Longcodezip => longcodezip(judge, text, instruction, self.language, *budget),
            CompressMethod::Perplexity => perplexity(judge, text, instruction, *budget),
            CompressMethod::Context => {
                context(judge, &mut self.vectors.clone(), text, instruction, &self.rule, *budget)
            }
        }
    }

    /// The answer, but for the model's name.
    fn answer(&self, kept: &Compressed, usage: Usage) -> CompressedText {
        let span =
            |span: &dropcap_compress::Span| KeptSpan { start: span.start, end: span.end, score: span.score };
        CompressedText {
            id: random_id("cmprs-"),
            object: "compressed_text",
            created: seconds(),
            model: String::new(),
            method: self.method,
            budget: self.budget.to_string(),
            text: kept.text(&self.text),
            spans: kept.spans.iter().map(span).collect(),
            tokens_before: kept.tokens_before,
            tokens_after: kept.tokens_after,
            share: kept.tokens_after as f64 / kept.tokens_before.max(1) as f64,
            judged: kept.judged,
            usage,
        }
    }
}

fn budget(given: &Budget) -> Result<Amount, ApiError> {
    let text = match given {
        Budget::Tokens(count) => count.to_string(),
        // Debug writes the point that tells a share from a count.
        Budget::Share(share) => format!("{share:?}"),
        Budget::Text(text) => text.trim().to_owned(),
    };
    text.parse().map_err(|_| {
        let message = format!(
            "budget is {text}: it must be a number of tokens such as 2048 or 2K, or the share that stays such as 0.25"
        );
        ApiError::parameter("budget", message)
    })
}

fn within(name: &str, given: Option<f64>, least: f64, most: f64) -> Result<Option<f64>, ApiError> {
    match given {
        Some(given) if !(least..=most).contains(&given) => {
            let message = format!("{name} is {given}: it must be between {least} and {most}");
            Err(ApiError::parameter(name, message))
        }
        given => Ok(given),
    }
}

fn vectors(given: Option<Vec<crate::wire::TextVector>>, is_context: bool) -> Result<GivenVectors, ApiError> {
    let Some(given) = given else {
        return match is_context {
            false => Ok(GivenVectors::default()),
            true => Err(ApiError::parameter(
                "vectors",
                "vectors are missing: a server hears no hidden states, so give those of the instruction and of every sentence",
            )),
        };
    };
    let expected = given.first().map_or(0, |first| first.vector.len());
    if let Some((number, other)) =
        given.iter().enumerate().find(|(_, one)| one.vector.len() != expected || expected == 0)
    {
        let message = format!(
            "vectors[{number}] has {} numbers and the first has {expected}: all must have equally many, and at least one",
            other.vector.len()
        );
        return Err(ApiError::parameter("vectors", message));
    }
    Ok(GivenVectors::new(given.into_iter().map(|one| (one.text, one.vector))))
}

/// What went wrong, with the parameter at fault.
fn refusal(error: &CompressError) -> ApiError {
    let message = error.to_string();
    match error {
        CompressError::Engine(error) => {
            let refused = ApiError::from_engine(error);
            // What the engine calls the prompt is a piece of the text with the instruction.
            let param = refused.param.map(|_| "text".to_owned());
            ApiError { param, ..refused }
        }
        CompressError::NoInstruction { .. } | CompressError::LongInstruction { .. } => {
            ApiError::parameter("instruction", message)
        }
        CompressError::NoVector { .. } => ApiError::parameter("vectors", message),
        CompressError::LongText { .. } => ApiError::parameter("text", message),
        CompressError::Stopped(_) => ApiError::failed(message),
        _ => ApiError::invalid(message),
    }
}
