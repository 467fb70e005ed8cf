//! What is wrong with a conversation, or with the template itself.

use std::path::PathBuf;

use super::Role;
use crate::ModelError;

/// A conversation that becomes no tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// There is nothing to encode.
    #[error("messages is empty: it must hold at least one")]
    Empty,
    /// A message that says nothing and calls no tool.
    #[error("a message of the {0} has no content")]
    NoContent(Role),
    /// A variable that would replace one of the conversation itself.
    #[error("chat_template_kwargs may not hold {0:?}: it is the conversation's own")]
    OwnVariable(String),
    /// The template writes nothing.
    #[error("the model's chat template makes nothing of messages")]
    Nothing,
    /// The template writes too much.
    #[error("the model's chat template writes more than {limit} bytes: shorten the conversation")]
    TooLong {
        /// Bytes that it may write.
        limit: usize,
    },
    /// The template takes too long.
    #[error("the model's chat template takes more than {limit} steps: shorten the conversation")]
    TooManySteps {
        /// Steps that it may take.
        limit: u64,
    },
    /// The template says no.
    #[error("the model's chat template refuses the conversation: {0}")]
    Refused(String),
    /// No message is of the assistant.
    #[error("no message is of the assistant, so there is no answer")]
    NoAnswer,
    /// A text that the tokenizer refuses.
    #[error(transparent)]
    Text(#[from] ModelError),
}

/// What is wrong with a template itself.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is no JSON, or whose template is no text.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A template that cannot be understood.
    #[error("the chat template cannot be understood: {0}")]
    Syntax(String),
}
