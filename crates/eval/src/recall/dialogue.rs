//! Contexts of a chosen length with something to remember at a chosen depth, and the questions about them.

use std::path::PathBuf;

use super::haystack::Haystack;
use super::maker::Maker;
use crate::EvalError;
use crate::subject::Subject;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecallKind {
    /// One sentence hidden in a text, in the manner of RULER and the needle in a haystack.
    Needle,
    /// One of many keys, the whole context being such pairs (Liu et al. 2023, arXiv 2307.03172).
    KeyValue,
    /// Two hidden sentences: one is asked about first, and then, when it is too late to look again, the other.
    SecondQuestion,
    /// Things that are told one after the other; each turn asks about an earlier one.
    MultiTurn,
    /// A list of words that is to be written again.
    Copying,
    /// A page about people, one of whom is asked about.
    OpenBook,
}

impl RecallKind {
    /// All of them under the command's names.
    pub const ALL: [(&'static str, Self); 6] = [
        ("needle", Self::Needle),
        ("key_value", Self::KeyValue),
        ("second_question", Self::SecondQuestion),
        ("multi_turn", Self::MultiTurn),
        ("copying", Self::Copying),
        ("open_book", Self::OpenBook),
    ];
}

/// How a task is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Recall {
    /// What is asked.
    pub kind: RecallKind,
    /// Tokens of the context and the first question, or of the whole talk of [`RecallKind::MultiTurn`].
    pub length: usize,
    /// Where what is asked about stands, from 0 to 1; the examples take one after the other.
    pub depths: Vec<f64>,
    /// Sentences that are hidden, words of the list, turns; ignored where facts fill the whole context.
    pub facts: usize,
    /// How many prompts.
    pub prompts: usize,
    /// Equal seeds give equal prompts.
    pub seed: u64,
    /// Whether the question belongs to what is pruned where the prompt ends; otherwise it comes after that, unknown.
    pub aware: bool,
    /// The text to hide them in; none for a few sentences that repeat.
    pub haystack: Option<PathBuf>,
}

/// Prompts of one kind and length.
#[derive(Debug)]
pub struct RecallTask {
    /// As the tables name it.
    pub name: String,
    pub(super) aware: bool,
    pub(super) dialogues: Vec<Dialogue>,
}

/// One context with its questions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dialogue {
    pub(super) depth: f64,
    pub(super) context: String,
    pub(super) turns: Vec<Turn>,
}

/// What is said to the model, and what it should answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    /// What is asked, after what is told first.
    pub(super) question: String,
    /// How the answer begins, for models that go on with a text.
    pub(super) lead: String,
    /// How it goes on: what is judged.
    pub(super) answer: String,
    /// The sentence of the context that says so.
    pub(super) sentence: String,
}

impl RecallTask {
    /// Makes the prompts.
    ///
    /// # Errors
    /// A haystack that cannot be read; a length that the model does not have, or in which there is no room for what is
    /// asked.
    pub fn generate(name: String, recall: &Recall, subject: &Subject) -> Result<Self, EvalError> {
        let haystack = Haystack::open(recall.haystack.as_deref())?;
        let around = subject.around_a_message()?;
        let maker = Maker { name: &name, recall, subject, haystack: &haystack, around };
        let depth = |number: usize| recall.depths.get(number % recall.depths.len().max(1)).copied();
        let dialogues = (0..recall.prompts).map(|number| maker.make(number, depth(number).unwrap_or(0.5)));
        let dialogues = dialogues.collect::<Result<_, _>>()?;
        Ok(Self { name, aware: recall.aware, dialogues })
    }

    /// How many prompts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.dialogues.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dialogues.is_empty()
    }

    /// Questions of each prompt.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.dialogues.first().map_or(0, |dialogue| dialogue.turns.len())
    }
}
