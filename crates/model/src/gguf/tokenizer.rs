//! `tokenizer.json` and `tokenizer_config.json` of a GGUF file's metadata.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use super::pieces::merges;
use super::splitting::{KNOWN, Splitting, splitting};
use crate::error::ModelError;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
/// The key without which a file has no tokenizer.
pub(super) const MODEL: &str = "tokenizer.ggml.model";
const SPLITTING: &str = "tokenizer.ggml.pre";

/// The kinds of tokens, as the format numbers them.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;
const NORMAL: u64 = 1;

/// Every token that is in use, with its id, its kind and its score.
struct Vocabulary<'a> {
    tokens: Vec<(&'a str, usize, u64, f64)>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &Metadata<'a>) -> Result<Self, ModelError> {
        let texts = metadata.texts(TOKENS)?;
        let kinds = metadata.numbers(TYPES, texts.len())?;
        let scores = metadata.numbers(SCORES, texts.len())?;
        let (mut tokens, mut seen) = (Vec::with_capacity(texts.len()), HashSet::new());
        for (id, text) in texts.iter().enumerate() {
            let of = |numbers: &Option<Vec<f64>>, absent: f64| {
                numbers.as_ref().and_then(|numbers| numbers.get(id).copied()).unwrap_or(absent)
            };
            let (kind, score) = (of(&kinds, 1.0) as u64, of(&scores, 0.0));
            // Rows that no token uses have made-up names, which may repeat.
            if kind == UNUSED {
                continue;
            }
            if !seen.insert(text.as_str()) {
                return Err(metadata.refuse(TOKENS, format!("each token once, and {text:?} stands twice")));
            }
            tokens.push((text.as_str(), id, kind, score));
        }
        Ok(Self { tokens })
    }

    fn ids(&self) -> Map<String, Value> {
        self.tokens.iter().map(|&(text, id, ..)| (text.to_owned(), json!(id))).collect()
    }

    /// What is found in a text before it is split: control tokens, and what a person added.
    fn added(&self) -> Vec<Value> {
        let added = self.tokens.iter().filter(|token| matches!(token.2, UNKNOWN | CONTROL | USER_DEFINED));
        let entry = |&(content, id, kind, _): &(&str, usize, u64, f64)| {
            json!({
                "id": id, "content": content, "special": kind != USER_DEFINED, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })
        };
        added.filter(|token| !token.0.is_empty()).map(entry).collect()
    }
}

/// The `tokenizer.json` of a file: byte-level merges (`gpt2`), or SentencePiece's (`llama`).
pub(super) fn tokenizer(metadata: &Metadata<'_>) -> Result<Value, ModelError> {
    let vocabulary = Vocabulary::read(metadata)?;
    let (normalizer, pre_tokenizer, decoder, model, begins) = match metadata.text(MODEL)? {
        Some("gpt2") => {
            let Splitting { pre_tokenizer, normalizer, ignore_merges, begins } = rules(metadata)?;
            let model = json!({
                "type": "BPE", "vocab": vocabulary.ids(), "merges": metadata.texts(MERGES)?,
                "ignore_merges": ignore_merges, "fuse_unk": false, "byte_fallback": false,
            });
            let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
            (normalizer, pre_tokenizer, decoder, model, begins)
        }
        Some("llama") => {
            let (normalizer, decoder) = sentence_piece_spaces(metadata)?;
            (normalizer, Value::Null, decoder, sentence_piece(metadata, &vocabulary)?, true)
        }
        _ => return Err(metadata.refuse(MODEL, "gpt2 or llama: other tokenizers are not supported")),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": vocabulary.added(),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder, "model": model,
        "post_processor": around(metadata, begins)?,
    }))
}

fn rules(metadata: &Metadata<'_>) -> Result<Splitting, ModelError> {
    let name = match metadata.text(SPLITTING)? {
        // Files from before the key was there; of the tokenizers of other models nobody can tell.
        None if metadata.architecture() == "gpt2" => "gpt-2",
        name => name.unwrap_or("default"),
    };
    splitting(name).ok_or_else(|| metadata.refuse(SPLITTING, KNOWN))
}

fn sentence_piece(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value, ModelError> {
    if metadata.get(SCORES).is_none() {
        return Err(metadata.refuse(SCORES, "a list of numbers"));
    }
    let pieces = vocabulary.tokens.iter().filter(|token| token.2 == NORMAL);
    let pieces: Vec<_> = pieces.map(|&(text, id, _, score)| (text, id, score)).collect();
    let unknown = token(metadata, "unknown")?;
    let unknown =
        unknown.or_else(|| vocabulary.tokens.iter().find(|token| token.2 == UNKNOWN).map(|token| token.0));
    Ok(json!({
        "type": "BPE", "vocab": vocabulary.ids(), "merges": merges(&pieces), "unk_token": unknown,
        "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
    }))
}

/// Spaces are a character of their own, and one stands before a text where the file does not deny it.
fn sentence_piece_spaces(metadata: &Metadata<'_>) -> Result<(Value, Value), ModelError> {
    let before = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let mut normalizers = Vec::new();
    if before {
        normalizers.push(json!({"type": "Prepend", "prepend": "\u{2581}"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    normalizers.push(space);
    let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
    Ok((normalizer, json!({"type": "Sequence", "decoders": decoders})))
}

/// What is put around a text: the tokens that begin and end one, where the file asks for them.
fn around(metadata: &Metadata<'_>, begins: bool) -> Result<Value, ModelError> {
    let asked = |name: &str, absent: bool| {
        let asked = metadata.flag(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(absent);
        if asked { token_and_id(metadata, name) } else { Ok(None) }
    };
    let (begin, end) = (asked("bos", begins)?, asked("eos", false)?);
    if begin.is_none() && end.is_none() {
        return Ok(Value::Null);
    }
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = |name: &str| {
        let text = json!({"Sequence": {"id": name, "type_id": 0}});
        let parts =
            [begin.map(|(token, _)| special(token)), Some(text), end.map(|(token, _)| special(token))];
        parts.into_iter().flatten().collect::<Vec<_>>()
    };
    let tokens: Map<String, Value> = begin
        .into_iter()
        .chain(end)
        .map(|(token, id)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let pair: Vec<Value> = sequence("A").into_iter().chain(sequence("B")).collect();
    Ok(json!({"type": "TemplateProcessing", "single": sequence("A"), "pair": pair, "special_tokens": tokens}))
}

/// The `tokenizer_config.json` of a file: its chat template, and the tokens that the template asks for.
pub(super) fn tokenizer_config(metadata: &Metadata<'_>) -> Result<Value, ModelError> {
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    for (key, name) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        if let Some(token) = token(metadata, name)? {
            config.insert(format!("{key}_token"), token.into());
        }
    }
    if let Some(template) = metadata.text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), template.into());
    }
    if let Some(positions) = metadata.count(&metadata.key("context_length"))? {
        config.insert("model_max_length".into(), positions.into());
    }
    Ok(config.into())
}

fn token<'a>(metadata: &Metadata<'a>, name: &str) -> Result<Option<&'a str>, ModelError> {
    Ok(token_and_id(metadata, name)?.map(|(token, _)| token))
}

/// The token that a key names by its id.
fn token_and_id<'a>(metadata: &Metadata<'a>, name: &str) -> Result<Option<(&'a str, u64)>, ModelError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = metadata.count(&key)? else { return Ok(None) };
    let tokens = metadata.texts(TOKENS)?;
    let token = usize::try_from(id).ok().and_then(|at| tokens.get(at));
    let token =
        token.ok_or_else(|| metadata.refuse(&key, format!("the id of one of {} tokens", tokens.len())))?;
    Ok(Some((token, id)))
}
