//! What a terminal gets to see: no control character of a model's text, a file name or a message reaches it.
//!
//! A terminal obeys control characters: a text can rename the window, hide what was printed before it, or worse. They
//! are shown escaped as in JSON, so that an object stays one. A pipe gets every byte as it is.

use std::borrow::Cow;
use std::io::{IsTerminal, Result, StdoutLock, Write};

/// Standard output.
pub fn stdout() -> Output<StdoutLock<'static>> {
    let escapes = std::io::stdout().is_terminal();
    Output { inner: std::io::stdout().lock(), escapes }
}

/// Writes a line to standard error. That nobody can read it is no reason to fail.
pub fn say(line: &str) {
    let escapes = std::io::stderr().is_terminal();
    let _ = writeln!(Output { inner: std::io::stderr().lock(), escapes }, "{line}");
}

/// A stream that may end at a terminal.
pub struct Output<W> {
    inner: W,
    escapes: bool,
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        if !self.escapes {
            return self.inner.write(bytes);
        }
        self.inner.write_all(escaped(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        self.inner.flush()
    }
}

/// `text` with its control characters, line breaks and tabs apart, written as `\u001b`.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmful(c) { out.push_str(&format!("\\u{:04x}", u32::from(c))) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLE: &str = "a\u{1b}]0;title\u{7}\tb\r\u{9b}2J\u{7f}\né";

    #[test]
    fn a_terminal_gets_no_control_character_and_a_pipe_gets_all() {
        let written = |escapes: bool| {
            let mut output = Output { inner: Vec::new(), escapes };
            write!(output, "{TITLE}").unwrap();
            String::from_utf8(output.inner).unwrap()
        };
        assert_eq!(written(false), TITLE);
        assert_eq!(written(true), "a\\u001b]0;title\\u0007\tb\\u000d\\u009b2J\\u007f\né");
    }

    #[test]
    fn an_object_for_machines_stays_one() {
        let object = serde_json::json!({ "text": TITLE });
        let shown = escaped(&object.to_string()).into_owned();
        assert!(!shown.contains('\u{9b}'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), object);
    }
}
