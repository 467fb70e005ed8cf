//! Where prompts come from: a flag, a JSONL file, or standard input.

use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{terminal, utf8};

/// Longest line of a prompt file and longest standard input, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// One prompt with what it changes of the run's defaults.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Text to continue; this or `ids`.
    pub prompt: Option<String>,
    /// Token ids to continue.
    pub ids: Option<Vec<u32>>,
    /// Most tokens to generate.
    pub max_tokens: Option<usize>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Seed of the sampler.
    pub seed: Option<u64>,
    /// Strings that end the text.
    pub stop: Option<Vec<String>>,
}

impl Prompt {
    /// A prompt of plain text.
    pub fn text(text: String) -> Self {
        Prompt { prompt: Some(text), ..Prompt::default() }
    }
}

/// Reads a JSONL file (`-` is standard input): one object per line with `prompt` or `ids`, and optionally
/// `max_tokens`, `temperature`, `seed`, `stop`. Texts are taken as they stand.
pub fn from_file(path: &Path) -> Result<Vec<Prompt>> {
    if path == Path::new("-") {
        return from_lines("standard input", std::io::stdin().lock());
    }
    let name = path.display().to_string();
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {name}"))?;
    from_lines(&name, BufReader::new(file))
}

/// Reads the lines of a prompt file; `name` is only for messages.
pub fn from_lines(name: &str, mut lines: impl BufRead) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for number in 1.. {
        let place = || format!("{name} line {number}");
        let mut line = Vec::new();
        if (&mut lines).take(MOST_BYTES + 1).read_until(b'\n', &mut line).with_context(place)? == 0 {
            break;
        }
        if line.len() as u64 > MOST_BYTES {
            bail!("{}: longer than {MOST_BYTES} bytes", place());
        }
        let text = match number {
            1 => utf8::decode(&line),
            _ => std::str::from_utf8(&line).map_err(anyhow::Error::from),
        };
        let text = text.with_context(place)?;
        if text.trim().is_empty() {
            continue;
        }
        let prompt: Prompt = serde_json::from_str(text).with_context(place)?;
        match (&prompt.prompt, &prompt.ids) {
            (Some(_), Some(_)) => bail!("{}: has both `prompt` and `ids`: give one", place()),
            (None, None) => bail!("{}: has neither `prompt` nor `ids`", place()),
            _ => {}
        }
        for stop in prompt.stop.iter().flatten() {
            stop_string(stop).map_err(anyhow::Error::msg).with_context(place)?;
        }
        prompts.push(prompt);
    }
    if prompts.is_empty() {
        bail!("{name} holds no prompt: write one JSON object per line, such as {{\"prompt\": \"Once\"}}");
    }
    Ok(prompts)
}

/// All of standard input as one prompt; the line break at its end, if it has one, is the shell's and not the text's.
pub fn from_stdin() -> Result<Prompt> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        terminal::say("reading the prompt from the terminal: Ctrl-D ends it, --help shows other ways");
    }
    let mut bytes = Vec::new();
    (&mut stdin).take(MOST_BYTES + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() as u64 > MOST_BYTES {
        bail!("standard input is longer than {MOST_BYTES} bytes");
    }
    let text = utf8::decode(&bytes).context("standard input")?;
    Ok(Prompt::text(utf8::without_line_break(text).to_owned()))
}

/// A string that can end a text.
///
/// # Errors
/// An empty one.
pub fn stop_string(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a stop string has at least one character: leave it out to stop nowhere".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<Prompt>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        from_file(file.path())
    }

    #[test]
    fn lines_carry_their_own_settings() {
        let prompts =
            read(b"{\"prompt\":\"a\",\"max_tokens\":3}\n\n{\"ids\":[1,2],\"seed\":9,\"stop\":[\"x\"]}")
                .unwrap();
        assert_eq!(prompts.len(), 2);
        assert_eq!(prompts[0].max_tokens, Some(3));
        assert_eq!(prompts[1].ids, Some(vec![1, 2]));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_prompt() {
        let prompts = read(b"\xef\xbb\xbf{\"prompt\":\"a\\n\\n\"}\n{\"prompt\":\"\xef\xbb\xbfb\"}").unwrap();
        assert_eq!(prompts[0], Prompt::text("a\n\n".into()));
        assert_eq!(prompts[1], Prompt::text("\u{feff}b".into()));
    }

    #[test]
    fn any_bytes_are_prompts_or_refused() {
        const VALID: &str = "{\"prompt\":\"a\\u00e9\",\"max_tokens\":3,\"stop\":[\"x\"]}\n\n\
                             {\"ids\":[1,2],\"seed\":9,\"temperature\":0.5}\r\n";
        const PIECES: [&str; 12] = [
            "0",
            "-1",
            "4294967296",
            "1e999",
            "null",
            "\"\"",
            "\"\\ud800\"",
            "\n",
            "[",
            "}",
            ",",
            "\u{feff}",
        ];
        let sound = |bytes: &[u8]| {
            for prompt in from_lines("test", bytes).unwrap_or_default() {
                assert!(prompt.prompt.is_some() != prompt.ids.is_some());
                assert!(prompt.stop.iter().flatten().all(|stop| !stop.is_empty()));
            }
        };
        sound(VALID.as_bytes());
        dropcap_mutation::random_bytes(1000, sound);
        dropcap_mutation::changed(5000, &[VALID], &PIECES, sound);
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let cases: [(&[u8], &str); 8] = [
            (b"{\"prompt\":\"a\"}\n{\"prompt\":", "line 2"),
            (b"{\"prompt\":\"a\",\"n\":1}", "unknown field"),
            (b"{\"prompt\":\"a\",\"ids\":[1]}", "both"),
            (b"{\"seed\":1}", "neither"),
            (b"{\"prompt\":\"\xff\"}", "utf-8"),
            (b"\n\n", "holds no prompt"),
            (b"{\"prompt\":\"a\"}\n{\"prompt\":\"a\",\"stop\":[\"x\",\"\"]}", "line 2: a stop string"),
            (b"\xff\xfe{\0", "UTF-16"),
        ];
        for (text, words) in cases {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }
}
