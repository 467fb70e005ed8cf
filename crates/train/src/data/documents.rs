//! The documents of a source, one at a time.

use std::borrow::Cow;
use std::path::Path;

use dropcap_model::chat::Message;

use super::json_line;
use super::lines::Lines;
use crate::TrainError;

/// The line that stands between two documents of a plain text, after a blank line.
pub const SEPARATOR: &str = "<|endoftext|>";

/// Largest document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 1 << 30;

/// A stretch of text that has nothing to do with its neighbours.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What stands in it.
    pub said: Said,
    /// The line of the file that it begins at, counted from 1.
    pub line: u64,
}

/// What a document says, and what of it is to be learned.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A text with `\n` line breaks and no blank lines around it, learned as a whole.
    Text(String),
    /// What is asked, and the answer that is to be learned, one directly behind the other.
    Pair {
        /// What is asked; may be empty.
        prompt: String,
        /// The answer.
        completion: String,
    },
    /// A conversation, whose messages of the assistant are to be learned.
    Chat(Vec<Message>),
}

/// The forms of [`Said`]: those of a file's documents are all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Texts.
    Text,
    /// Prompts with completions.
    Pair,
    /// Conversations.
    Chat,
}

impl Said {
    /// Which form it has.
    #[must_use]
    pub fn form(&self) -> Form {
        match self {
            Self::Text(_) => Form::Text,
            Self::Pair { .. } => Form::Pair,
            Self::Chat(_) => Form::Chat,
        }
    }

    /// Everything that is said, in one text: messages are paragraphs, and who speaks is left out.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Pair { prompt, completion } => Cow::Owned([prompt.as_str(), completion].concat()),
            Self::Chat(messages) => {
                let contents = messages.iter().filter_map(|message| message.content.as_deref());
                Cow::Owned(contents.collect::<Vec<_>>().join("\n\n"))
            }
        }
    }
}

impl Form {
    /// What a file of it holds.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "texts",
            Self::Pair => "prompts with completions",
            Self::Chat => "conversations",
        }
    }

    /// The form of a file's first document.
    ///
    /// # Errors
    /// What [`Documents`] refuses up to there.
    pub fn of_file(path: &Path) -> Result<Self, TrainError> {
        let mut documents = Documents::open(path)?;
        if !documents.json {
            // Which may be one document as long as the file.
            return Ok(Self::Text);
        }
        let first = documents.next().transpose()?;
        Ok(first.map_or(Self::Text, |document| document.said.form()))
    }
}

/// Reads a file document by document; never holds more than one.
///
/// Plain text is cut at lines that are exactly `<|endoftext|>`; blank lines around a document, and documents of
/// nothing but white space, are left out. In a file named `.jsonl` or `.ndjson` every line is an object with a `text`, with a
/// `prompt` and a `completion`, or with the `messages` of a conversation, one form a file. Either may be packed: `.txt.xz`, `.jsonl.xz`. Files of other formats are refused by name and content.
pub struct Documents {
    lines: Lines,
    json: bool,
    /// That of the documents so far.
    form: Option<Form>,
    ended: bool,
}

impl Documents {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be opened; something that is no file.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let lines = Lines::open(path)?;
        Ok(Self { json: lines.is_json(), lines, form: None, ended: false })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.lines.path()
    }

    fn read(&mut self) -> Result<Option<Document>, TrainError> {
        let document = if self.json { self.read_json()? } else { self.read_plain()? };
        match &document {
            Some(document) => {
                let form = document.said.form();
                let first = *self.form.get_or_insert(form);
                if form != first {
                    return Err(TrainError::DataLine {
                        path: self.path().to_path_buf(),
                        line: document.line,
                        reason: format!(
                            "the file begins with {}, and here are {}: put each form in a file of its own",
                            first.name(),
                            form.name()
                        ),
                    });
                }
            }
            None if self.form.is_none() => {
                let reason = match self.lines.number() {
                    0 | 1 => "is empty: give files with text".to_owned(),
                    lines => {
                        format!("holds no text in its {} lines, only separators and white space", lines - 1)
                    }
                };
                return Err(TrainError::Data { path: self.path().to_path_buf(), reason });
            }
            None => {}
        }
        Ok(document)
    }

    fn read_plain(&mut self) -> Result<Option<Document>, TrainError> {
        let mut text = String::new();
        let mut begin = 0;
        loop {
            let (before, blank) = (text.len(), text.is_empty());
            let more = self.lines.next(&mut text)?;
            let line = text[before..].trim_end_matches('\n');
            if more && line != SEPARATOR {
                if line.trim().is_empty() && blank {
                    text.clear();
                } else if blank {
                    begin = self.lines.number();
                }
                self.check_length(text.len())?;
                continue;
            }
            text.truncate(before);
            text.truncate(text.trim_end().len());
            if !text.is_empty() {
                return Ok(Some(Document { said: Said::Text(text), line: begin }));
            }
            if !more {
                return Ok(None);
            }
        }
    }

    fn read_json(&mut self) -> Result<Option<Document>, TrainError> {
        let mut line = String::new();
        while self.lines.next(&mut line)? {
            let number = self.lines.number();
            let refused = |reason: String| TrainError::DataLine {
                path: self.path().to_path_buf(),
                line: number,
                reason,
            };
            if !line.trim().is_empty()
                && let Some(said) = json_line::read(&line).map_err(refused)?
            {
                return Ok(Some(Document { said, line: number }));
            }
            line.clear();
        }
        Ok(None)
    }

    fn check_length(&self, bytes: usize) -> Result<(), TrainError> {
        if bytes <= MAX_DOCUMENT_BYTES {
            return Ok(());
        }
        Err(TrainError::DataLine {
            path: self.path().to_path_buf(),
            line: self.lines.number(),
            reason: format!(
                "the document is longer than {MAX_DOCUMENT_BYTES} bytes: put a line {SEPARATOR} between documents"
            ),
        })
    }
}

impl Iterator for Documents {
    type Item = Result<Document, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests;
