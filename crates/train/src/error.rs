//! Why a training was refused or stopped.

use std::io;
use std::path::{Path, PathBuf};

use dropcap_files::FileError;
use dropcap_kernels::KernelError;
use dropcap_methods::MethodError;
use dropcap_model::ModelError;
use dropcap_weights::WeightsError;

use crate::collective::CollectiveError;

/// Everything that can go wrong around a training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The operating system refused an operation.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A file was not written.
    #[error(transparent)]
    File(FileError),
    /// The disk ran full while something was written; what was there before is untouched.
    #[error(
        "the disk is full: cannot write {}; earlier checkpoints are intact, free some space and start the same command again to resume",
        path.display()
    )]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// There is not enough room for the next checkpoint; nothing was written.
    #[error(
        "the next checkpoint in {} needs {needed} bytes and the disk has {free} free: free some space, or lower checkpoint.keep",
        path.display()
    )]
    NoRoom {
        /// The run's directory.
        path: PathBuf,
        /// Bytes that the checkpoint takes.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A training that a device has no room for.
    #[error("the training needs {needed} MiB on {device}, which has {free} MiB free: {advice}")]
    NoDeviceMemory {
        /// The device's name.
        device: String,
        /// MiB that it takes, about.
        needed: usize,
        /// MiB that are free.
        free: usize,
        /// What to change.
        advice: String,
    },
    /// A configuration with problems; all of them at once.
    #[error("{origin}:\n  {}", problems.join("\n  "))]
    Config {
        /// The file, or what else the configuration came from.
        origin: String,
        /// One line per problem, with the key.
        problems: Vec<String>,
    },
    /// A schedule that is not of the grammar.
    #[error(
        "`{given}` is no alpha schedule: {reason}; write linear_<start>_<end>_<steps>, cosine_<start>_<end>_<steps> or linearcosine_<start>_<mid>_<steps>_<end>_<steps>"
    )]
    Schedule {
        /// The text given.
        given: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A place in the data that cannot be used.
    #[error("{} line {line}: {reason}", path.display())]
    DataLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A file of data that cannot be used as a whole.
    #[error("{}: {reason}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Too little data for one sequence.
    #[error(
        "the {split} data has {got} tokens, and one sequence needs {needed} (batch.tokens + 1): add text, or lower batch.tokens"
    )]
    TooFewTokens {
        /// Which data: `training` or `validation`.
        split: &'static str,
        /// Tokens that a sequence needs.
        needed: u64,
        /// Tokens that there are.
        got: u64,
    },
    /// Examples of which no window shows an answer.
    #[error(
        "none of the {examples} examples of the {split} data begins a sequence of {window} tokens with an answer in it: raise batch.tokens, shorten the prompts, or add examples"
    )]
    NoAnswers {
        /// Which data: `training` or `validation`.
        split: &'static str,
        /// Examples that there are.
        examples: u64,
        /// Tokens of a sequence.
        window: usize,
    },
    /// A shard of tokens that cannot be used.
    #[error("{} is no usable shard of tokens: {reason}; delete it to have it made again", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer that cannot be made.
    #[error("cannot train a tokenizer: {reason}")]
    TokenizerTraining {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Another process works in the run's directory.
    #[error(
        "{} is in use by {}: wait for it, or choose another output",
        path.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("the process {pid}"))
    )]
    Locked {
        /// The run's directory.
        path: PathBuf,
        /// The process that holds it, if it left its number.
        pid: Option<u32>,
    },
    /// A saved state that is incomplete or was changed.
    #[error("the saved state {} is damaged: {reason}", path.display())]
    DamagedState {
        /// The folder of the state.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There are saved states, and none of them is whole.
    #[error(
        "no saved state in {} can be loaded:\n  {}\ndelete or move the directory to start again",
        path.display(),
        reasons.join("\n  ")
    )]
    NoState {
        /// The run's directory.
        path: PathBuf,
        /// One line per state.
        reasons: Vec<String>,
    },
    /// A file of ours that a later version of this program wrote.
    #[error(
        "{} has the format version {found}, and this program reads up to {known}: use the newer program that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u64,
        /// The newest version that is read.
        known: u64,
    },
    /// A state of that step has been saved already.
    #[error("{} exists already: a step is saved once", path.display())]
    AlreadySaved {
        /// The folder of the state.
        path: PathBuf,
    },
    /// A run directory that was made by another configuration or for another model; all differences at once.
    #[error(
        "{} holds another run:\n  {}\nchange these back to resume, or choose another output",
        path.display(),
        differences.join("\n  ")
    )]
    AnotherRun {
        /// The run's directory.
        path: PathBuf,
        /// One line per differing field, with both values.
        differences: Vec<String>,
    },
    /// Text that is no digest.
    #[error("`{given}` is no digest, which is 64 hexadecimal digits")]
    Digest {
        /// The text given.
        given: String,
    },
    /// A loss or gradients that stayed infinite or NaN.
    #[error(
        "step {step}: the loss or a gradient was not finite for {skipped} steps in a row: the states saved before are whole; lower optimizer.learning_rate, or watchdog.skip_steps allows more"
    )]
    Diverged {
        /// The step, counted from 0.
        step: u64,
        /// Steps in a row that were skipped.
        skipped: u64,
    },
    /// Something that the program itself got wrong.
    #[error("internal error: {what}; please report it")]
    Internal {
        /// What did not fit.
        what: String,
    },
    /// Processes that did not find each other, or lost each other.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A model or tokenizer that is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Gates that are refused.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// Weights that are refused.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// An operation of the arithmetic that is refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl TrainError {
    /// Wraps a refusal of the operating system.
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { op, path: path.to_path_buf(), source }
    }

    /// Wraps a refusal to write; a full disk gets its own words.
    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_path_buf() }
            }
            _ => Self::io("write", path, source),
        }
    }
}
