//! What `dropcap compress` reads.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use dropcap_compress::GivenVectors;
use dropcap_model::MAX_TEXT_BYTES;
use dropcap_train::data::Lines;
use serde::Deserialize;

use crate::{size, terminal};

/// All bytes of a file, or of standard input.
pub fn read(file: Option<&Path>) -> Result<Vec<u8>> {
    let limit = MAX_TEXT_BYTES as u64;
    let mut bytes = Vec::new();
    let name = match file.filter(|file| *file != Path::new("-")) {
        Some(path) => {
            let open =
                std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            let read = open.take(limit + 1).read_to_end(&mut bytes);
            read.with_context(|| format!("cannot read {}", path.display()))?;
            path.display().to_string()
        }
        None => {
            let stdin = std::io::stdin().lock();
            if stdin.is_terminal() {
                terminal::say("reading the text from the terminal: Ctrl-D ends it, --help shows other ways");
            }
            stdin.take(limit + 1).read_to_end(&mut bytes).context("cannot read standard input")?;
            "standard input".to_owned()
        }
    };
    if bytes.len() as u64 > limit {
        bail!("{name} is longer than {}: cut it into several texts", size::human(limit));
    }
    Ok(bytes)
}

/// A text and its vector.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    text: String,
    vector: Vec<f64>,
}

/// Reads JSON lines with `text` and `vector`, all vectors of one length.
pub fn vectors(path: &Path) -> Result<GivenVectors> {
    let mut lines = Lines::open(path)?;
    let (mut text, mut found) = (String::new(), Vec::new());
    let mut length = None;
    while lines.next(&mut text)? {
        let place = || format!("{} line {}", path.display(), lines.number());
        if !text.trim().is_empty() {
            let line: Line = serde_json::from_str(&text).with_context(place)?;
            let expected = *length.get_or_insert(line.vector.len());
            if line.vector.len() != expected {
                bail!(
                    "{}: the vector has {} numbers, those before it {expected}",
                    place(),
                    line.vector.len()
                );
            }
            found.push((line.text, line.vector));
        }
        text.clear();
    }
    Ok(GivenVectors::new(found))
}
