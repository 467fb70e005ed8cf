//! Scores of examples in a file: one object a line, the first naming what was scored.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::data::TokenShard;
use crate::disk::{Disk, publish};

/// The version of the file that is written, and the newest that is read.
const VERSION: u64 = 1;
const FORMAT: &str = "dropcap-scores";

/// Scores of the examples of some files, in the order of files and examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    head: Head,
    /// How much each example pulls where all examples together do.
    pub influence: Vec<f64>,
    /// How much has to change for each.
    pub effort: Vec<f64>,
}

/// What was scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    format: String,
    version: u64,
    /// The model whose gradients they are.
    model: String,
    files: Vec<Scored>,
}

/// One file whose examples were scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Scored {
    /// Its name, for people.
    file: PathBuf,
    /// Digests of its bytes and of how they become tokens.
    source: String,
    tokenizer: String,
    pub(super) examples: u64,
}

/// What is written of files before their examples.
///
/// # Errors
/// A file that holds texts.
pub(super) fn scored(files: &[PathBuf], shards: &[TokenShard]) -> Result<Vec<Scored>, TrainError> {
    let of_file = |(file, shard): (&PathBuf, &TokenShard)| {
        let name = file.file_name().unwrap_or(file.as_os_str()).into();
        Scored::of(name, shard).ok_or_else(|| TrainError::Data {
            path: file.clone(),
            reason: "holds texts, and examples are scored: write prompts with completions or conversations"
                .to_owned(),
        })
    };
    files.iter().zip(shards).map(of_file).collect()
}

/// What tells written files from those of a run, a line for each difference.
pub(super) fn differences(files: &[Scored], shards: &[TokenShard]) -> Vec<String> {
    let mut problems = Vec::new();
    if files.len() != shards.len() {
        let (scored, given) = (files.len(), shards.len());
        problems.push(format!("the scores are of {scored} files, and data.train names {given}"));
    }
    for (scored, shard) in files.iter().zip(shards) {
        if Scored::of(scored.file.clone(), shard).as_ref() != Some(scored) {
            problems.push(format!(
                "{} has changed since, is another file, or becomes other tokens",
                scored.file.display()
            ));
        }
    }
    problems
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    file: usize,
    /// Counted from 0 in the file.
    example: u64,
    influence: f64,
    effort: f64,
}

impl Scores {
    /// A list that is still empty, for the examples of files.
    ///
    /// # Errors
    /// A file that holds texts.
    pub(crate) fn of(model: String, files: &[PathBuf], shards: &[TokenShard]) -> Result<Self, TrainError> {
        let files = scored(files, shards)?;
        let head = Head { format: FORMAT.to_owned(), version: VERSION, model, files };
        Ok(Self { head, influence: Vec::new(), effort: Vec::new() })
    }

    /// Examples of all files.
    #[must_use]
    pub fn examples(&self) -> usize {
        self.head.files.iter().map(|file| file.examples as usize).sum()
    }

    /// Writes the file: whole, or not at all.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), TrainError> {
        let places = self.head.files.iter().enumerate();
        let places =
            places.flat_map(|(file, scored)| (0..scored.examples).map(move |example| (file, example)));
        publish(disk, path, |out| {
            writeln!(out, "{}", serde_json::to_string(&self.head)?)?;
            for ((file, example), (&influence, &effort)) in
                places.zip(self.influence.iter().zip(&self.effort))
            {
                let line = Line { file, example, influence, effort };
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            }
            Ok(())
        })
    }

    /// Reads what [`Scores::write`] made.
    ///
    /// # Errors
    /// [`TrainError::NewerFormat`]; a file that is none, has other lines than it says or scores that are no finite numbers.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let file = std::fs::File::open(path).map_err(|error| TrainError::io("open", path, error))?;
        let refused = |line: usize, reason: String| TrainError::DataLine {
            path: path.to_path_buf(),
            line: line as u64 + 1,
            reason,
        };
        let mut lines = std::io::BufReader::new(file).lines().enumerate();
        let mut next = || match lines.next() {
            None => Ok(None),
            Some((number, Ok(text))) => Ok(Some((number, text))),
            Some((number, Err(error))) => Err(refused(number, format!("cannot be read: {error}"))),
        };
        let no_scores = "is not the first line of a file of scores: write one with `dropcap data score`";
        let (_, first) = next()?.ok_or_else(|| refused(0, no_scores.to_owned()))?;
        let value: serde_json::Value = serde_json::from_str(&first).unwrap_or_default();
        match value["version"].as_u64() {
            Some(found) if value["format"] == FORMAT && found > VERSION => {
                return Err(TrainError::NewerFormat { path: path.to_path_buf(), found, known: VERSION });
            }
            Some(_) if value["format"] == FORMAT => {}
            _ => return Err(refused(0, no_scores.to_owned())),
        }
        let head: Head =
            serde_json::from_value(value).map_err(|error| refused(0, format!("{no_scores} ({error})")))?;
        let mut scores = Self { head, influence: Vec::new(), effort: Vec::new() };
        for (file, scored) in scores.head.files.iter().enumerate() {
            for example in 0..scored.examples {
                let missing = || {
                    refused(
                        0,
                        format!(
                            "names {} examples of file {file}, and there are {example}: the file is cut off",
                            scored.examples
                        ),
                    )
                };
                let (number, text) = next()?.ok_or_else(missing)?;
                let line: Line =
                    serde_json::from_str(&text).map_err(|error| refused(number, error.to_string()))?;
                if (line.file, line.example) != (file, example)
                    || !line.influence.is_finite()
                    || !line.effort.is_finite()
                {
                    let reason =
                        format!("is not the score of example {example} of file {file} in finite numbers");
                    return Err(refused(number, reason));
                }
                scores.influence.push(line.influence);
                scores.effort.push(line.effort);
            }
        }
        match next()? {
            None => Ok(scores),
            Some((number, _)) => Err(refused(number, "is one more than the first line names".to_owned())),
        }
    }

    /// Refuses scores of other examples, or of another model, than those of a run.
    ///
    /// # Errors
    /// One line for each difference.
    pub(crate) fn check(&self, path: &Path, model: &str, shards: &[TokenShard]) -> Result<(), TrainError> {
        let mut problems = Vec::new();
        if self.head.model != model {
            problems.push(format!(
                "the scores are of the model {}, and the run starts from {model}",
                self.head.model
            ));
        }
        problems.extend(differences(&self.head.files, shards));
        if problems.is_empty() {
            return Ok(());
        }
        let origin = format!(
            "{} does not fit the run (score its examples again with `dropcap data score`)",
            path.display()
        );
        Err(TrainError::Config { origin, problems })
    }
}

impl Scored {
    /// None where the shard holds texts.
    fn of(file: PathBuf, shard: &TokenShard) -> Option<Self> {
        let examples = shard.answers()?.starts.len() as u64;
        let facts = shard.facts();
        Some(Self {
            file,
            source: facts.source.to_string(),
            tokenizer: facts.tokenizer.to_string(),
            examples,
        })
    }
}
