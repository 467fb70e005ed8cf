//! Where prompts come from: a flag, a JSONL file, or standard input.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

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

/// Reads a JSONL file: one object per line with `prompt` or `ids`, and optionally `max_tokens`,
/// `temperature`, `seed`, `stop`.
pub fn from_file(path: &Path) -> Result<Vec<Prompt>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut lines = BufReader::new(file);
    let mut prompts = Vec::new();
    for number in 1.. {
        let place = || format!("{} line {number}", path.display());
        let mut line = Vec::new();
        if (&mut lines).take(MOST_BYTES + 1).read_until(b'\n', &mut line).with_context(place)? == 0 {
            break;
        }
        if line.len() as u64 > MOST_BYTES {
            bail!("{}: longer than {MOST_BYTES} bytes", place());
        }
        let text = std::str::from_utf8(&line).with_context(place)?;
        if text.trim().is_empty() {
            continue;
        }
        let prompt: Prompt = serde_json::from_str(text).with_context(place)?;
        match (&prompt.prompt, &prompt.ids) {
            (Some(_), Some(_)) => bail!("{}: has both `prompt` and `ids`: give one", place()),
            (None, None) => bail!("{}: has neither `prompt` nor `ids`", place()),
            _ => prompts.push(prompt),
        }
    }
    if prompts.is_empty() {
        bail!(
            "{} holds no prompt: write one JSON object per line, such as {{\"prompt\": \"Once\"}}",
            path.display()
        );
    }
    Ok(prompts)
}

/// All of standard input as one prompt, a final line break apart.
pub fn from_stdin() -> Result<Prompt> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(MOST_BYTES + 1)
        .read_to_end(&mut bytes)
        .context("cannot read standard input")?;
    if bytes.len() as u64 > MOST_BYTES {
        bail!("standard input is longer than {MOST_BYTES} bytes");
    }
    let mut text = String::from_utf8(bytes).context("standard input is not UTF-8")?;
    if text.ends_with('\n') {
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
    }
    Ok(Prompt::text(text))
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
    fn a_bad_line_is_named_by_its_number() {
        let cases: [(&[u8], &str); 6] = [
            (b"{\"prompt\":\"a\"}\n{\"prompt\":", "line 2"),
            (b"{\"prompt\":\"a\",\"n\":1}", "unknown field"),
            (b"{\"prompt\":\"a\",\"ids\":[1]}", "both"),
            (b"{\"seed\":1}", "neither"),
            (b"{\"prompt\":\"\xff\"}", "utf-8"),
            (b"\n\n", "holds no prompt"),
        ];
        for (text, words) in cases {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }
}
