//! What examples' prompts mean to a student and to its teacher, in a file: one object a line, the first naming what was compared.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::scores::{Scored, differences, scored};
use crate::TrainError;
use crate::data::TokenShard;
use crate::disk::{Disk, publish};

/// The version of the file that is written, and the newest that is read.
const VERSION: u64 = 1;
const FORMAT: &str = "dropcap-confounders";
/// What is wrong with a file that is none.
const NONE: &str =
    "is not the first line of a file of confounders: write one with `dropcap data confounders`";

/// The prompts of the examples of some files, in the order of files and examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Confounders {
    head: Head,
    /// One for each example.
    pub prompts: Vec<Prompt>,
}

/// What was compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    format: String,
    version: u64,
    /// The models whose gradients they are.
    student: String,
    teacher: String,
    files: Vec<Scored>,
}

/// One example's prompt, as far as a window with its answer shows it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Prompt {
    /// Tokens of the example before the first that is compared: what begins a document.
    pub from: u64,
    /// How much more each token matters to the teacher, scaled to 0..=1 (see [`crate::select::difference`]); none where no answer is seen.
    pub difference: Vec<f64>,
    /// Mean loss of the answer under the student, in nats.
    pub student_loss: f64,
    /// The same under the teacher.
    pub teacher_loss: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    file: usize,
    /// Counted from 0 in the file.
    example: u64,
    #[serde(flatten)]
    prompt: Prompt,
}

impl Confounders {
    /// The prompts of all examples of files.
    ///
    /// # Errors
    /// A file that holds texts.
    pub(crate) fn of(
        [student, teacher]: [String; 2],
        files: &[PathBuf],
        shards: &[TokenShard],
        prompts: Vec<Prompt>,
    ) -> Result<Self, TrainError> {
        let files = scored(files, shards)?;
        let head = Head { format: FORMAT.to_owned(), version: VERSION, student, teacher, files };
        Ok(Self { head, prompts })
    }

    /// Writes the file: whole, or not at all.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), TrainError> {
        let mut prompts = self.prompts.iter();
        publish(disk, path, |out| {
            writeln!(out, "{}", serde_json::to_string(&self.head)?)?;
            for (file, scored) in self.head.files.iter().enumerate() {
                for (example, prompt) in (0..scored.examples).zip(prompts.by_ref()) {
                    let line = Line { file, example, prompt: prompt.clone() };
                    writeln!(out, "{}", serde_json::to_string(&line)?)?;
                }
            }
            Ok(())
        })
    }

    /// Reads what [`Confounders::write`] made.
    ///
    /// # Errors
    /// [`TrainError::NewerFormat`]; a file that is none, has other lines than it says or differences outside of 0..=1.
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
        let (_, first) = next()?.ok_or_else(|| refused(0, NONE.to_owned()))?;
        let value: serde_json::Value = serde_json::from_str(&first).unwrap_or_default();
        match value["version"].as_u64() {
            Some(found) if value["format"] == FORMAT && found > VERSION => {
                return Err(TrainError::NewerFormat { path: path.to_path_buf(), found, known: VERSION });
            }
            Some(_) if value["format"] == FORMAT => {}
            _ => return Err(refused(0, NONE.to_owned())),
        }
        let head: Head =
            serde_json::from_value(value).map_err(|error| refused(0, format!("{NONE} ({error})")))?;
        let mut prompts = Vec::new();
        for (file, scored) in head.files.iter().enumerate() {
            for example in 0..scored.examples {
                let all = scored.examples;
                let cut_off = || {
                    format!(
                        "names {all} examples of file {file}, and there are {example}: the file is cut off"
                    )
                };
                let (number, text) = next()?.ok_or_else(|| refused(0, cut_off()))?;
                let line: Line =
                    serde_json::from_str(&text).map_err(|error| refused(number, error.to_string()))?;
                let within = line.prompt.difference.iter().all(|value| (0.0..=1.0).contains(value));
                if (line.file, line.example) != (file, example) || !within {
                    let reason =
                        format!("is not about example {example} of file {file} in numbers from 0 to 1");
                    return Err(refused(number, reason));
                }
                prompts.push(line.prompt);
            }
        }
        match next()? {
            None => Ok(Self { head, prompts }),
            Some((number, _)) => Err(refused(number, "is one more than the first line names".to_owned())),
        }
    }

    /// Refuses those of other examples or other models than a run's.
    ///
    /// # Errors
    /// One line for each difference.
    pub(crate) fn check(
        &self,
        path: &Path,
        [student, teacher]: [&str; 2],
        shards: &[TokenShard],
    ) -> Result<(), TrainError> {
        let mut problems = Vec::new();
        for (what, found, given) in
            [("student", &self.head.student, student), ("teacher", &self.head.teacher, teacher)]
        {
            if found != given {
                problems.push(format!("the {what} is {found}, and that of the run is {given}"));
            }
        }
        problems.extend(differences(&self.head.files, shards));
        if problems.is_empty() {
            return Ok(());
        }
        let origin = format!(
            "{} does not fit the run (write it again with `dropcap data confounders`)",
            path.display()
        );
        Err(TrainError::Config { origin, problems })
    }
}
