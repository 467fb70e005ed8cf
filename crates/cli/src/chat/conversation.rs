//! What has been said.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use dropcap_files::{Existing, publish};
use dropcap_model::Tokenizer;
use dropcap_model::chat::{ChatTemplate, Message, Role};

/// A conversation with a model that has a template.
pub(super) struct Conversation {
    template: ChatTemplate,
    tokenizer: Arc<Tokenizer>,
    system: Option<String>,
    messages: Vec<Message>,
}

impl Conversation {
    /// One in which nothing has been said but the system's message.
    pub(super) fn new(template: ChatTemplate, tokenizer: Arc<Tokenizer>, system: Option<String>) -> Self {
        let mut conversation = Self { template, tokenizer, system, messages: Vec::new() };
        conversation.reset();
        conversation
    }

    /// Forgets all but the system's message.
    pub(super) fn reset(&mut self) {
        let system = self.system.iter().cloned();
        self.messages = system.map(|text| Message::text(Role::System, text)).collect();
    }

    /// The tokens of the conversation with one more message of the person.
    pub(super) fn ask(&self, text: &str) -> Result<Vec<u32>> {
        let mut messages = self.messages.clone();
        messages.push(Message::text(Role::User, text.to_owned()));
        Ok(self.template.encode(&self.tokenizer, &messages, None, None)?)
    }

    /// Remembers a message and its answer.
    pub(super) fn add(&mut self, text: String, answer: String) {
        self.messages.push(Message::text(Role::User, text));
        self.messages.push(Message::text(Role::Assistant, answer));
    }

    /// Writes the messages to a file, as requests to the server hold them.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.messages)?;
        Ok(publish(path, Existing::Replace, |out| out.write_all(&text))?)
    }
}
