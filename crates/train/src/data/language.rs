//! How what people write becomes tokens for one model.

use dropcap_model::Tokenizer;
use dropcap_model::chat::{ChatTemplate, TemplateError};

use super::borders::Borders;
use super::documents::Form;
use crate::digest::Digest;

/// A tokenizer with what stands around documents, and how conversations are written.
#[derive(Debug, Clone, Copy)]
pub struct Language<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// What stands around each document.
    pub borders: &'a Borders,
    /// Tokens at which a generation of the model ends.
    pub stops: &'a [u32],
    /// The model's chat template, if it has one; one that cannot be read is the error of who needs it.
    pub template: Result<Option<&'a ChatTemplate>, &'a TemplateError>,
}

impl Language<'_> {
    /// A digest of all that decides how a file of one form becomes tokens; `tokenizer` is that of the tokenizer's file.
    #[must_use]
    pub fn digest(&self, form: Form, tokenizer: &Digest) -> Digest {
        let text = self.borders.digest(tokenizer);
        let stops: Vec<u8> = self.stops.iter().flat_map(|id| id.to_le_bytes()).collect();
        match (form, self.template) {
            (Form::Text, _) => text,
            (Form::Chat, Ok(Some(template))) => {
                let [source, bos, eos] = template.parts().map(str::as_bytes);
                Digest::of_parts([&text.0[..], b"chat", &stops, source, bos, eos])
            }
            _ => Digest::of_parts([&text.0[..], b"answers", &stops]),
        }
    }
}
