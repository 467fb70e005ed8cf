//! Why an evaluation was refused or stopped.

use std::io;
use std::path::{Path, PathBuf};

use dropcap_engine::EngineError;
use dropcap_files::FileError;
use dropcap_kernels::KernelError;
use dropcap_model::ModelError;
use dropcap_train::TrainError;

/// Everything that can go wrong around an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The model refused a text.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tokenizer or the decoder refused something.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An operation refused its operands.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A text file that cannot be read.
    #[error(transparent)]
    Text(#[from] TrainError),
    /// A file was not written.
    #[error(transparent)]
    File(#[from] FileError),
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
    /// An example that is not of its task's schema.
    #[error("{} line {line}: {reason}", path.display())]
    Example {
        /// The task's file.
        path: PathBuf,
        /// Its line, counted from 1.
        line: u64,
        /// What is wrong, with the key, and what is expected.
        reason: String,
    },
    /// A task file without examples.
    #[error("{} holds no example: {schema}", path.display())]
    NoExamples {
        /// The task's file.
        path: PathBuf,
        /// What it should hold.
        schema: &'static str,
    },
    /// A text that gives nothing to predict.
    #[error("{} has no token to predict for this model: give more text", path.display())]
    NoTokens {
        /// The file.
        path: PathBuf,
    },
    /// A context that is empty, for a model that names no token that begins a text.
    #[error(
        "{place}: the context is empty, and the model names no token that begins or ends a text (bos_token_id, eos_token_id): give a context"
    )]
    NoStart {
        /// File and line.
        place: String,
    },
    /// A conversation that the model's chat template refuses.
    #[error("{reason}; --no-chat-template asks without it")]
    Template {
        /// The template's words.
        reason: String,
    },
    /// Lengths that the model does not have.
    #[error("{what} takes {wanted} positions, and the model has {limit}: ask for fewer")]
    TooLong {
        /// Which text.
        what: String,
        /// Positions that it takes.
        wanted: usize,
        /// Positions of the model.
        limit: usize,
    },
    /// A length in which what is asked about finds no room.
    #[error(
        "{what} of {given} tokens has no room for its facts and its question, which take {least}: ask for more"
    )]
    TooShort {
        /// Which text.
        what: String,
        /// The length asked for.
        given: usize,
        /// What is needed at least.
        least: usize,
    },
    /// Something that only the processor's code can look at.
    #[error("{what} runs on the processor: use --device cpu")]
    NeedsProcessor {
        /// What does.
        what: &'static str,
    },
    /// Prompts of which none was answered, so that nothing can be said of heads.
    #[error(
        "the model answered none of {asked} prompts, so what its heads copy says nothing ({reason}): ask for a shorter --length or more --samples, or take a model that finds what it has read"
    )]
    NothingRetrieved {
        /// How many prompts.
        asked: usize,
        /// What it wrote in place of what, for one of them.
        reason: String,
    },
    /// Scores of heads that the model does not have.
    #[error(
        "scores of {} layers of {} heads are none of this model, which has {} layers of {} query heads and {} KV heads",
        got.0, got.1, expected.0, expected.1, expected.2
    )]
    OtherHeads {
        /// Layers and heads of the scores.
        got: (usize, usize),
        /// Layers, query heads and KV heads of the model.
        expected: (usize, usize, usize),
    },
    /// More heads to silence than there are others to compare with.
    #[error("{given} heads cannot be masked and as many others beside them: the profile has {heads}; ask for 1 to {}", heads / 2)]
    TooManyHeads {
        /// How many.
        given: usize,
        /// Heads of the profile.
        heads: usize,
    },
    /// A model without rotated positions, for a score that is made of rotations.
    #[error(
        "the score of --kind duo compares rotations of a mean query and a mean key, and the positions of this model are learned: use --kind retrieval"
    )]
    NoRotation,
    /// A directory that holds something else.
    #[error(
        "{} holds results of another evaluation, which differs in {}: give another directory",
        path.display(),
        keys.join(", ")
    )]
    OtherRun {
        /// The directory.
        path: PathBuf,
        /// Keys of the configuration that differ.
        keys: Vec<String>,
    },
    /// A directory with files and without a configuration.
    #[error("{} is not empty and holds no evaluation: give another directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A directory that another process is writing.
    #[error("{} is being written by another evaluation: wait for it, or give another directory", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
}

impl EvalError {
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { op, path: path.to_path_buf(), source }
    }

    pub(crate) fn example(path: &Path, line: u64, reason: impl Into<String>) -> Self {
        Self::Example { path: path.to_path_buf(), line, reason: reason.into() }
    }
}
