//! Files that say something of every example of some files: one object a line, the first naming what they are about.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::data::TokenShard;
use crate::disk::{Disk, publish};

/// The version of the files that are written, and the newest that is read.
const VERSION: u64 = 1;

/// A kind of such files.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) format: &'static str,
    /// What stands in it, and the command that writes one.
    pub(super) holds: &'static str,
    pub(super) command: &'static str,
    /// What a line says of its example, and in which numbers.
    pub(super) says: [&'static str; 2],
}

/// What a file is about: `O` is of all examples together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Head<O> {
    format: String,
    version: u64,
    #[serde(flatten)]
    pub(super) of: O,
    files: Vec<Examples>,
}

/// One file whose examples are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Examples {
    /// Its name, for people.
    file: PathBuf,
    /// Digests of its bytes and of how they become tokens.
    source: String,
    tokenizer: String,
    examples: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line<T> {
    file: usize,
    /// Counted from 0 in the file.
    example: u64,
    #[serde(flatten)]
    told: T,
}

impl<O: Serialize + DeserializeOwned> Head<O> {
    /// What is to be said of the examples of these files.
    ///
    /// # Errors
    /// A file that holds texts.
    pub(super) fn new(
        kind: &Kind,
        of: O,
        files: &[PathBuf],
        shards: &[TokenShard],
    ) -> Result<Self, TrainError> {
        let of_file = |(file, shard): (&PathBuf, &TokenShard)| {
            let name = file.file_name().unwrap_or(file.as_os_str()).into();
            Examples::of(name, shard).ok_or_else(|| TrainError::Data {
                path: file.clone(),
                reason:
                    "holds texts, and examples are scored: write prompts with completions or conversations"
                        .to_owned(),
            })
        };
        let files = files.iter().zip(shards).map(of_file).collect::<Result<_, _>>()?;
        Ok(Self { format: kind.format.to_owned(), version: VERSION, of, files })
    }

    /// Examples of all files.
    pub(super) fn examples(&self) -> usize {
        self.files.iter().map(|file| file.examples as usize).sum()
    }

    /// Writes the file with what is told of each example, in the order of files and examples: whole, or not at all.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub(super) fn write<T: Serialize>(
        &self,
        disk: &dyn Disk,
        path: &Path,
        told: impl IntoIterator<Item = T>,
    ) -> Result<(), TrainError> {
        let files = self.files.iter().enumerate();
        let places = files.flat_map(|(file, of)| (0..of.examples).map(move |example| (file, example)));
        let lines = places.zip(told).map(|((file, example), told)| Line { file, example, told });
        publish(disk, path, |out| {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
            for line in lines {
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            }
            Ok(())
        })
    }

    /// Reads what [`Head::write`] made; `fits` says whether a line's numbers may stand there.
    ///
    /// # Errors
    /// [`TrainError::NewerFormat`]; a file of another kind, or with other lines or numbers than it may have.
    pub(super) fn read<T: DeserializeOwned>(
        kind: &Kind,
        path: &Path,
        fits: impl Fn(&T) -> bool,
    ) -> Result<(Self, Vec<T>), TrainError> {
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
        let none =
            format!("is not the first line of a file of {}: write one with `{}`", kind.holds, kind.command);
        let (_, first) = next()?.ok_or_else(|| refused(0, none.clone()))?;
        let value: serde_json::Value = serde_json::from_str(&first).unwrap_or_default();
        match value["version"].as_u64() {
            Some(found) if value["format"] == kind.format && found > VERSION => {
                return Err(TrainError::NewerFormat { path: path.to_path_buf(), found, known: VERSION });
            }
            Some(_) if value["format"] == kind.format => {}
            _ => return Err(refused(0, none)),
        }
        let head: Self =
            serde_json::from_value(value).map_err(|error| refused(0, format!("{none} ({error})")))?;
        let mut all = Vec::new();
        for (file, of) in head.files.iter().enumerate() {
            for example in 0..of.examples {
                let cut_off = || {
                    let count = of.examples;
                    format!(
                        "names {count} examples of file {file}, and there are {example}: the file is cut off"
                    )
                };
                let (number, text) = next()?.ok_or_else(|| refused(0, cut_off()))?;
                let line: Line<T> =
                    serde_json::from_str(&text).map_err(|error| refused(number, error.to_string()))?;
                if (line.file, line.example) != (file, example) || !fits(&line.told) {
                    let [what, numbers] = kind.says;
                    let reason = format!("is not {what} example {example} of file {file} in {numbers}");
                    return Err(refused(number, reason));
                }
                all.push(line.told);
            }
        }
        match next()? {
            None => Ok((head, all)),
            Some((number, _)) => Err(refused(number, "is one more than the first line names".to_owned())),
        }
    }

    /// Refuses a file with `problems`, or one of other examples than a run's.
    ///
    /// # Errors
    /// One line for each difference.
    pub(super) fn check(
        &self,
        kind: &Kind,
        path: &Path,
        mut problems: Vec<String>,
        shards: &[TokenShard],
    ) -> Result<(), TrainError> {
        if self.files.len() != shards.len() {
            let (told, given) = (self.files.len(), shards.len());
            problems.push(format!("the {} are of {told} files, and data.train names {given}", kind.holds));
        }
        for (examples, shard) in self.files.iter().zip(shards) {
            if Examples::of(examples.file.clone(), shard).as_ref() != Some(examples) {
                problems.push(format!(
                    "{} has changed since, is another file, or becomes other tokens",
                    examples.file.display()
                ));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        let origin =
            format!("{} does not fit the run (write it again with `{}`)", path.display(), kind.command);
        Err(TrainError::Config { origin, problems })
    }
}

impl Examples {
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
