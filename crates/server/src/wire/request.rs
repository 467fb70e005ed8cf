//! The parameters that completions and conversations share.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

/// Strings that end a text: one, or several.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum Stop {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// What a stream carries beside the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Whether a last chunk tells the usage.
    #[serde(default)]
    pub include_usage: bool,
}

/// Declares a request with its own fields and those that all requests for text have.
macro_rules! request {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, serde::Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The model, as `/v1/models` names it; the one that there is where it is left out.
            pub model: Option<String>,
            $($(#[$doc])* pub $field: $type,)*
            /// Most tokens to generate; never more than the model has positions left. 0 only where a completion echoes its
            /// prompt with log-probabilities.
            pub max_tokens: Option<u64>,
            /// 0 always takes the likeliest token; 1 by default.
            #[schema(minimum = 0)]
            pub temperature: Option<f64>,
            /// Only the likeliest tokens whose probabilities reach this sum; 1 by default.
            #[schema(exclusive_minimum = 0, maximum = 1)]
            pub top_p: Option<f64>,
            /// Only so many of the likeliest tokens; 0, the default, and -1 keep all.
            #[schema(minimum = -1)]
            pub top_k: Option<i64>,
            /// Only tokens at least this share as likely as the likeliest; 0 by default.
            #[schema(minimum = 0, maximum = 1)]
            pub min_p: Option<f64>,
            /// Taken from the logit of a token for each time that the text has generated it; 0 by default.
            #[schema(minimum = -2, maximum = 2)]
            pub frequency_penalty: Option<f64>,
            /// Taken from the logit of a token that the text has generated; 0 by default.
            #[schema(minimum = -2, maximum = 2)]
            pub presence_penalty: Option<f64>,
            /// Above 1, tokens of the prompt and of the text become less likely; 1 by default.
            pub repetition_penalty: Option<f64>,
            /// Added to the logits of tokens, by their ids.
            pub logit_bias: Option<std::collections::BTreeMap<String, f64>>,
            /// Equal seeds give equal texts, as far as their logits are equal; any number by default.
            pub seed: Option<i64>,
            /// Strings that end the text; they are not part of it.
            pub stop: Option<crate::wire::Stop>,
            /// Texts for each prompt; 1 by default.
            #[schema(minimum = 1, maximum = 128)]
            pub n: Option<u64>,
            /// Whether the text comes as server-sent events, as it grows.
            pub stream: Option<bool>,
            /// What such a stream carries beside the text.
            pub stream_options: Option<crate::wire::StreamOptions>,
            /// Whether generation goes on past the model's end-of-text tokens.
            pub ignore_eos: Option<bool>,
            /// Most entries of each lane that stay where the server's pruning method acts, within what it keeps by itself;
            /// refused where the method has no budget.
            #[schema(minimum = 1)]
            pub kv_budget: Option<u64>,
            /// Requests share the memory of equal beginnings only with those of the same salt.
            pub cache_salt: Option<String>,
            /// Not used; clients may name whom they serve.
            pub user: Option<String>,
        }

        impl $name {
            /// The parameters that all requests have.
            pub fn common(&self) -> crate::wire::Common<'_> {
                crate::wire::Common {
                    model: self.model.as_deref(),
                    max_tokens: self.max_tokens,
                    temperature: self.temperature,
                    top_p: self.top_p,
                    top_k: self.top_k,
                    min_p: self.min_p,
                    frequency_penalty: self.frequency_penalty,
                    presence_penalty: self.presence_penalty,
                    repetition_penalty: self.repetition_penalty,
                    logit_bias: self.logit_bias.as_ref(),
                    seed: self.seed,
                    stop: self.stop.as_ref(),
                    n: self.n,
                    stream: self.stream.unwrap_or_default(),
                    include_usage: self.stream_options.is_some_and(|options| options.include_usage),
                    has_stream_options: self.stream_options.is_some(),
                    ignore_eos: self.ignore_eos.unwrap_or_default(),
                    kv_budget: self.kv_budget,
                    cache_salt: self.cache_salt.as_deref(),
                }
            }
        }
    };
}
pub(super) use request;

/// The parameters that all requests for text have, as they were sent.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "each is described where it stands on the wire")]
pub struct Common<'a> {
    pub model: Option<&'a str>,
    pub max_tokens: Option<u64>,
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub logit_bias: Option<&'a BTreeMap<String, f64>>,
    pub seed: Option<i64>,
    pub stop: Option<&'a Stop>,
    pub n: Option<u64>,
    pub stream: bool,
    pub include_usage: bool,
    pub has_stream_options: bool,
    pub ignore_eos: bool,
    pub kv_budget: Option<u64>,
    pub cache_salt: Option<&'a str>,
}
