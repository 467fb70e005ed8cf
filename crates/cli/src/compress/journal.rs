//! Every prompt that a search has scored, in a file, so that one that was interrupted goes on.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use dropcap_compress::Answers;
use serde_json::{Value, json};

const FORMAT: &str = "dropcap-prompts";
const VERSION: u64 = 1;

/// Scores by prompt, and the file that each new one is appended to, if there is one.
pub struct Journal {
    file: Option<(PathBuf, File)>,
    known: HashMap<String, Answers>,
}

impl Journal {
    /// One that forgets.
    pub fn none() -> Self {
        Self { file: None, known: HashMap::new() }
    }

    /// Opens a file, new or old; `about` is what all its scores depend on. A torn last line is cut off.
    pub fn open(path: &Path, about: &Value) -> Result<Self> {
        let place = || format!("the journal {}", path.display());
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .with_context(|| format!("cannot open {}", place()))?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("cannot read {}", place()))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(whole as u64).with_context(|| format!("cannot cut {}", place()))?;
        }
        let head = json!({ "format": FORMAT, "version": VERSION, "about": about });
        let mut lines = text[..whole].lines();
        match lines.next().map(serde_json::from_str::<Value>) {
            None => writeln!(file, "{head}").with_context(|| format!("cannot write {}", place()))?,
            Some(Ok(found)) if found == head => {}
            Some(Ok(found)) if found["format"] == FORMAT => match found["version"].as_u64() {
                Some(newer) if newer > VERSION => bail!(
                    "{} has the format version {newer}, and this program reads up to {VERSION}: use the newer program that wrote it",
                    place()
                ),
                _ => bail!(
                    "{} is of another search ({} and not {about}): name another file",
                    place(),
                    found["about"]
                ),
            },
            Some(_) => bail!("{} is there and is no journal of prompts: name another file", path.display()),
        }
        let mut known = HashMap::new();
        for (number, line) in lines.enumerate() {
            let value: Value = serde_json::from_str(line).unwrap_or_default();
            // As texts, which are read to the last bit.
            let read = |key: &str| value[key].as_str().and_then(|text| text.parse::<f64>().ok());
            match (value["prompt"].as_str(), read("probability"), read("accuracy")) {
                (Some(prompt), Some(probability), Some(accuracy)) => {
                    known.insert(prompt.to_owned(), Answers { probability, accuracy });
                }
                _ => bail!("{} line {}: is no score of a prompt", path.display(), number + 2),
            }
        }
        Ok(Self { file: Some((path.to_path_buf(), file)), known })
    }

    /// Scores that were found in the file.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// The score of a prompt, if it is known.
    pub fn get(&self, prompt: &str) -> Option<Answers> {
        self.known.get(prompt).copied()
    }

    /// Notes a score.
    pub fn put(&mut self, prompt: &str, answers: Answers) -> Result<()> {
        self.known.insert(prompt.to_owned(), answers);
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let Answers { probability, accuracy } = answers;
        let (probability, accuracy) = (probability.to_string(), accuracy.to_string());
        let line = json!({ "prompt": prompt, "probability": probability, "accuracy": accuracy });
        file.write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("cannot write the journal {}", path.display()))
    }
}
