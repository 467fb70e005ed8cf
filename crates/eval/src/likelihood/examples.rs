//! The examples of a task, whatever file they came from.

use std::path::{Path, PathBuf};

use super::{hellaswag, json};
use crate::EvalError;

/// A context and one continuation of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// What is given.
    pub context: String,
    /// What is scored, with the space that joins it to the context.
    pub continuation: String,
    /// Characters of the choice alone, for `acc_norm`.
    pub characters: usize,
}

/// One example: continuations, one of which is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The line that it begins at, counted from 1.
    pub line: u64,
    /// The continuations.
    pub pairs: Vec<Pair>,
    /// The right one.
    pub gold: usize,
}

/// The tasks whose files can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// LAMBADA (Paperno et al. 2016, arXiv 1606.06031): JSON lines with `text`, whose last word is to be guessed.
    Lambada,
    /// HellaSwag (Zellers et al. 2019, arXiv 1905.07830): six lines an example, the context, the number of the right
    /// ending and four endings.
    HellaSwag,
    /// PIQA (Bisk et al. 2020, arXiv 1911.11641): JSON lines with `query`, `choices`, `gold`.
    Piqa,
    /// WinoGrande (Sakaguchi et al. 2019, arXiv 1907.10641): JSON lines with `context_options`, `continuation`, `gold`.
    Winogrande,
    /// ARC, the easy set (Clark et al. 2018, arXiv 1803.05457): JSON lines with `query`, `choices`, `gold`.
    ArcEasy,
    /// Anything: JSON lines with `context`, `choices`, `gold`, and optionally `delimiter`, a space unless it is given,
    /// which joins them.
    Choices,
}

impl Kind {
    /// All of them, with the names that the command and lm-evaluation-harness have for them.
    pub const ALL: [(&'static str, Self); 6] = [
        ("lambada", Self::Lambada),
        ("hellaswag", Self::HellaSwag),
        ("piqa", Self::Piqa),
        ("winogrande", Self::Winogrande),
        ("arc_easy", Self::ArcEasy),
        ("choices", Self::Choices),
    ];

    /// Whether the continuation is to be guessed word for word, instead of being preferred.
    #[must_use]
    pub fn is_guessed(self) -> bool {
        self == Self::Lambada
    }

    /// Whether the choices are the continuations, so that dividing by their lengths means something.
    #[must_use]
    pub fn has_norm(self) -> bool {
        !matches!(self, Self::Lambada | Self::Winogrande)
    }

    fn schema(self) -> &'static str {
        match self {
            Self::Lambada => "every line is an object such as {\"text\": \"...\"}",
            Self::HellaSwag => "an example is six lines: context, number of the right ending, four endings",
            Self::Piqa | Self::ArcEasy => {
                "every line is an object such as {\"query\": \"...\", \"choices\": [\"...\", \"...\"], \"gold\": 0}"
            }
            Self::Winogrande => {
                "every line is an object such as {\"context_options\": [\"...\", \"...\"], \"continuation\": \"...\", \"gold\": 0}"
            }
            Self::Choices => {
                "every line is an object such as {\"context\": \"...\", \"choices\": [\"...\", \"...\"], \"gold\": 0}"
            }
        }
    }
}

/// A task that is scored by likelihood.
#[derive(Debug)]
pub struct LikelihoodTask {
    /// As the tables name it.
    pub name: String,
    /// How it is scored.
    pub kind: Kind,
    path: PathBuf,
    pub(super) examples: Vec<Example>,
}

impl LikelihoodTask {
    /// Reads a task's file, which may be packed with xz; with a `limit` its first examples.
    ///
    /// # Errors
    /// A file that cannot be read; an example that is not of the schema, with file, line and key; no example at all.
    pub fn open(name: String, kind: Kind, path: &Path, limit: Option<usize>) -> Result<Self, EvalError> {
        let limit = limit.unwrap_or(usize::MAX);
        let examples = match kind {
            Kind::HellaSwag => hellaswag::read(path, limit)?,
            _ => json::read(kind, path, limit)?,
        };
        if examples.is_empty() {
            return Err(EvalError::NoExamples { path: path.to_path_buf(), schema: kind.schema() });
        }
        Ok(Self { name, kind, path: path.to_path_buf(), examples })
    }

    /// How many examples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there is none, which is never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// Where an example stands.
    pub(super) fn place(&self, number: usize) -> String {
        format!("{} line {}", self.path.display(), self.examples[number].line)
    }
}

/// Choices as continuations of one context.
pub(super) fn choices(context: &str, delimiter: &str, choices: &[String]) -> Vec<Pair> {
    let pair = |choice: &String| Pair {
        context: context.to_owned(),
        continuation: format!("{delimiter}{choice}"),
        characters: choice.chars().count(),
    };
    choices.iter().map(pair).collect()
}
