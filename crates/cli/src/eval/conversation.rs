//! The model's chat template, as evaluations use it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use dropcap_eval::{EvalError, Template};
use dropcap_model::chat::{ChatTemplate, Message, Role, template_of};
use dropcap_model::{GenerationConfig, Tokenizer};

/// A template with the tokenizer of its model.
#[derive(Debug)]
pub struct Conversation {
    template: ChatTemplate,
    tokenizer: Arc<Tokenizer>,
}

impl Conversation {
    /// The template of a model's directory; none where it has none.
    pub fn with(
        directory: &Path,
        tokenizer: &Arc<Tokenizer>,
        generation: &GenerationConfig,
    ) -> Result<Option<Arc<dyn Template>>> {
        let template = template_of(directory, None, tokenizer, generation)?;
        let conversation = |template| Arc::new(Self { template, tokenizer: tokenizer.clone() });
        Ok(template.map(|template| conversation(template) as Arc<dyn Template>))
    }
}

impl Template for Conversation {
    fn encode(&self, messages: &[String]) -> Result<Vec<u32>, EvalError> {
        let role = |number: usize| if number.is_multiple_of(2) { Role::User } else { Role::Assistant };
        let said = messages.iter().enumerate();
        let said: Vec<Message> =
            said.map(|(number, text)| Message::text(role(number), text.clone())).collect();
        let encoded = self.template.encode(&self.tokenizer, &said, None, None);
        encoded.map_err(|error| EvalError::Template { reason: error.to_string() })
    }
}
