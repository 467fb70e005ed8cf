//! Scores of examples, in a file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::examples::{Head, Kind};
use crate::TrainError;
use crate::data::TokenShard;
use crate::disk::Disk;

const KIND: Kind = Kind {
    format: "dropcap-scores",
    holds: "scores",
    command: "dropcap data score",
    says: ["the score of", "finite numbers"],
};

/// Scores of the examples of some files, in the order of files and examples.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    head: Head<Scored>,
    /// How much each example pulls where all examples together do.
    pub influence: Vec<f64>,
    /// How much has to change for each.
    pub effort: Vec<f64>,
}

/// What scored them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Scored {
    /// The model whose gradients they are.
    model: String,
}

/// One example's.
#[derive(Debug, Serialize, Deserialize)]
struct Score {
    influence: f64,
    effort: f64,
}

impl Scores {
    /// A list that is still empty, for the examples of files.
    ///
    /// # Errors
    /// A file that holds texts.
    pub(crate) fn of(model: String, files: &[PathBuf], shards: &[TokenShard]) -> Result<Self, TrainError> {
        let head = Head::new(&KIND, Scored { model }, files, shards)?;
        Ok(Self { head, influence: Vec::new(), effort: Vec::new() })
    }

    /// Examples of all files.
    #[must_use]
    pub fn examples(&self) -> usize {
        self.head.examples()
    }

    /// Writes the file: whole, or not at all.
    ///
    /// # Errors
    /// A refusal of the disk.
    pub fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), TrainError> {
        let pairs = self.influence.iter().zip(&self.effort);
        self.head.write(disk, path, pairs.map(|(&influence, &effort)| Score { influence, effort }))
    }

    /// Reads what [`Scores::write`] made.
    ///
    /// # Errors
    /// [`TrainError::NewerFormat`]; a file that is none, has other lines than it says or scores that are no finite numbers.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        let finite = |score: &Score| score.influence.is_finite() && score.effort.is_finite();
        let (head, scores) = Head::read(&KIND, path, finite)?;
        let (influence, effort) = scores.into_iter().map(|score| (score.influence, score.effort)).unzip();
        Ok(Self { head, influence, effort })
    }

    /// Refuses scores of other examples, or of another model, than those of a run.
    ///
    /// # Errors
    /// One line for each difference.
    pub(crate) fn check(&self, path: &Path, model: &str, shards: &[TokenShard]) -> Result<(), TrainError> {
        let own = &self.head.of.model;
        let other = (own != model)
            .then(|| format!("the scores are of the model {own}, and the run starts from {model}"));
        self.head.check(&KIND, path, other.into_iter().collect(), shards)
    }
}
