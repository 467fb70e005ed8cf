//! From a prompt as it was given to the tokens that the model gets.

use anyhow::{Result, bail};
use dropcap_model::Tokenizer;

use crate::progress::warn;
use crate::prompts::Prompt;

/// How prompts become tokens.
pub struct Encoder<'a> {
    /// None where all prompts are tokens already.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Whether special tokens spelled out in a prompt become those tokens.
    pub parse_special: bool,
    /// The token that begins a text.
    pub start: Option<u32>,
    /// Tokens that the model has.
    pub vocabulary: usize,
}

impl Encoder<'_> {
    /// The tokens of a prompt, at least one: where it is empty, the token that begins a text.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let ids = match (&prompt.ids, &prompt.prompt, self.tokenizer) {
            (Some(ids), ..) => ids.clone(),
            (None, Some(text), Some(tokenizer)) => self.text(text, tokenizer)?,
            _ => Vec::new(),
        };
        match (ids.is_empty(), self.start) {
            (false, _) => Ok(ids),
            (true, Some(start)) => Ok(vec![start]),
            (true, None) => {
                bail!("the prompt is empty, and the model names no token that begins a text (bos_token_id)")
            }
        }
    }

    fn text(&self, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let ids = if self.parse_special { tokenizer.encode_prompt(text)? } else { tokenizer.encode(text)? };
        tokenizer.check_ids(&ids, self.vocabulary)?;
        if let [first, second, ..] = ids[..]
            && first == second
            && Some(first) == self.start
        {
            let token = tokenizer.token(first).unwrap_or_default();
            warn(&format!(
                "the model sees {token:?} twice: the tokenizer begins every text with it, and so does the prompt"
            ));
        }
        Ok(ids)
    }
}
