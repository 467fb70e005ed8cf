//! What examples' prompts mean to a student and to its teacher, in a file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::examples::{Head, Kind};
use crate::TrainError;
use crate::data::TokenShard;
use crate::disk::Disk;

const KIND: Kind = Kind {
    format: "dropcap-confounders",
    holds: "confounders",
    command: "dropcap data confounders",
    says: ["about", "numbers from 0 to 1"],
};

/// The prompts of the examples of some files, in the order of files and examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Confounders {
    head: Head<Compared>,
    /// One for each example.
    pub prompts: Vec<Prompt>,
}

/// The models whose gradients were compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Compared {
    student: String,
    teacher: String,
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
        Ok(Self { head: Head::new(&KIND, Compared { student, teacher }, files, shards)?, prompts })
    }

    /// Writes the file: whole, or not at all.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), TrainError> {
        self.head.write(disk, path, &self.prompts)
    }

    /// Reads what [`Confounders::write`] made.
    ///
    /// # Errors
    /// [`TrainError::NewerFormat`]; a file that is none, has other lines than it says or differences outside of 0..=1.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let within = |prompt: &Prompt| prompt.difference.iter().all(|value| (0.0..=1.0).contains(value));
        let (head, prompts) = Head::read(&KIND, path, within)?;
        Ok(Self { head, prompts })
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
        let Compared { student: own, teacher: its } = &self.head.of;
        let others = [("student", own, student), ("teacher", its, teacher)]
            .into_iter()
            .filter(|(_, found, given)| found != given)
            .map(|(what, found, given)| format!("the {what} is {found}, and that of the run is {given}"));
        self.head.check(&KIND, path, others.collect(), shards)
    }
}
