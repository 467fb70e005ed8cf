//! The tokens that stand around a document.

use std::path::Path;

use dropcap_model::{Tokenizer, read_companion};
use serde_json::Value;

use crate::TrainError;
use crate::digest::Digest;

/// The token that ends a text where nothing beside the tokenizer names another: that of our own tokenizers.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Longest file beside a tokenizer that is read, in bytes; chat templates make some of them large.
const MAX_BYTES: u64 = 16 << 20;

/// What stands before and behind each document, as in inference: prompts begin as the tokenizer begins every text, and
/// a generation ends at the model's end token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Borders {
    /// What the tokenizer puts before every text.
    pub begin: Vec<u32>,
    /// What it puts behind every text, and the token that ends one; empty where there is none.
    pub end: Vec<u32>,
}

impl Borders {
    /// The borders for a model whose generation ends at any of `stops`; `named` is the end token that the tokenizer's
    /// own configuration names.
    ///
    /// Of several stops the one that is named there ends documents, else the first that the tokenizer knows. Where the
    /// model has none it is what is named, or [`END_OF_TEXT`] where that is a special token.
    ///
    /// # Errors
    /// A tokenizer that fails on any text.
    pub fn of(tokenizer: &Tokenizer, stops: &[u32], named: Option<&str>) -> Result<Self, TrainError> {
        let named = named.and_then(|token| tokenizer.id(token));
        let own = tokenizer.id(END_OF_TEXT).filter(|&id| tokenizer.is_control(id));
        let both = named.filter(|id| stops.contains(id));
        let known = |id: &u32| tokenizer.token(*id).is_some();
        let candidates = both.into_iter().chain(stops.iter().copied()).chain(named).chain(own);
        let end = candidates.into_iter().find(known);
        // Text never becomes a control token, so these were put around it.
        let sample = tokenizer.encode("a")?;
        let is_around = |id: &&u32| tokenizer.is_control(**id);
        let begin = sample.iter().take_while(is_around).count();
        let behind = sample[begin..].iter().rev().take_while(is_around).count();
        let mut ends = sample[sample.len() - behind..].to_vec();
        if !ends.iter().any(|id| Some(*id) == end || stops.contains(id)) {
            ends.extend(end);
        }
        Ok(Self { begin: sample[..begin].to_vec(), end: ends })
    }

    /// The token after which a document is over.
    #[must_use]
    pub fn stop(&self) -> Option<u32> {
        self.end.last().copied()
    }

    /// A digest of the tokens and of what else decides how text becomes tokens.
    #[must_use]
    pub fn digest(&self, tokenizer: &Digest) -> Digest {
        let bytes = |ids: &[u32]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>();
        Digest::of_parts([&tokenizer.0[..], &bytes(&self.begin), &bytes(&self.end)])
    }
}

/// The end token that `tokenizer_config.json` or `special_tokens_map.json` in the folder of a `tokenizer.json` names.
///
/// # Errors
/// A file that is there and is no JSON object.
pub fn named_end(tokenizer: &Path) -> Result<Option<String>, TrainError> {
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = tokenizer.with_file_name(name);
        let refused = |reason: String| TrainError::Data { path: path.clone(), reason };
        let Some(bytes) = read_companion(&path, MAX_BYTES)? else { continue };
        let json: Value =
            serde_json::from_slice(&bytes).map_err(|error| refused(format!("is no JSON: {error}")))?;
        // A token is its text, or an object with that text.
        let token = &json["eos_token"];
        if let Some(text) = token.as_str().or_else(|| token["content"].as_str()) {
            return Ok(Some(text.to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
