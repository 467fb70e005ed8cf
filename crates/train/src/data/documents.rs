//! The documents of a source, one at a time.

use std::path::Path;

use serde::Deserialize;

use super::lines::Lines;
use crate::TrainError;

/// The line that stands between two documents of a plain text, after a blank line.
pub const SEPARATOR: &str = "<|endoftext|>";

/// Largest document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 1 << 30;

/// A stretch of text that has nothing to do with its neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its text, with `\n` line breaks and no blank lines around it.
    pub text: String,
    /// The line of the file that it begins at, counted from 1.
    pub line: u64,
}

/// Reads a file document by document; never holds more than one.
///
/// Plain text is cut at lines that are exactly `<|endoftext|>`; blank lines around a document, and documents of
/// nothing but white space, are left out. In a file named `.jsonl` or `.ndjson` every line is an object whose `text` is a
/// document. Either may be packed: `.txt.xz`, `.jsonl.xz`. Files of other formats are refused by name and content.
pub struct Documents {
    lines: Lines,
    json: bool,
    found: u64,
    ended: bool,
}

/// A line of a `.jsonl`; other keys are for other programs.
#[derive(Deserialize)]
struct JsonLine {
    text: Option<String>,
}

/// Keys that a message names at most.
const SHOWN_KEYS: usize = 8;

impl Documents {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be opened; something that is no file.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let lines = Lines::open(path)?;
        Ok(Self { json: lines.is_json(), lines, found: 0, ended: false })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.lines.path()
    }

    fn read(&mut self) -> Result<Option<Document>, TrainError> {
        let document = if self.json { self.read_json()? } else { self.read_plain()? };
        match &document {
            Some(_) => self.found += 1,
            None if self.found == 0 => {
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
                return Ok(Some(Document { text, line: begin }));
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
            if !line.trim().is_empty() {
                let object: JsonLine = serde_json::from_str(&line)
                    .map_err(|e| refused(format!("is no JSON object with a text: {e}")))?;
                let text = object.text.ok_or_else(|| {
                    let keys = keys(&line);
                    refused(format!("has no `text`: every line is an object such as {{\"text\": \"...\"}}, and this one has {keys}"))
                })?;
                let text = text.trim();
                if !text.is_empty() {
                    return Ok(Some(Document { text: text.to_owned(), line: number }));
                }
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

/// The keys of an object, as a message shows them.
fn keys(line: &str) -> String {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap_or_default();
    let keys: Vec<String> = object.keys().take(SHOWN_KEYS).map(|key| format!("{key:?}")).collect();
    if keys.is_empty() { "no keys".to_owned() } else { keys.join(", ") }
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
