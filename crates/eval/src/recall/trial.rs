//! Dialogues as prompts of which it is known where the answer stands.

use std::collections::HashSet;
use std::ops::Range;

use super::dialogue::{Dialogue, RecallTask, Turn};
use super::talk::Talk;
use crate::EvalError;
use crate::subject::Subject;

/// What a model without a chat template finds behind the question: nothing of the answer, so that it copies all of it.
const LEAD: &str = "\nAnswer:";

/// A prompt whose answer stands in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trial {
    /// The tokens that the model reads.
    pub(crate) prompt: Vec<u32>,
    /// Those of them that say the answer; none where they were not found again.
    pub(crate) needle: Option<Range<usize>>,
    /// What should be written.
    pub(crate) answer: String,
}

impl RecallTask {
    /// The first question of each dialogue.
    pub(crate) fn trials(&self, subject: &Subject) -> Result<Vec<Trial>, EvalError> {
        self.dialogues.iter().map(|dialogue| trial(subject, dialogue)).collect()
    }

    /// The tokens of the first question of each dialogue, with its context.
    ///
    /// # Errors
    /// A template that refuses one.
    pub fn prompts(&self, subject: &Subject) -> Result<Vec<Vec<u32>>, EvalError> {
        Ok(self.trials(subject)?.into_iter().map(|trial| trial.prompt).collect())
    }
}

/// Tokens of a text, and of which of them the next one belongs to an answer.
pub type AnsweredText = (Vec<u32>, Vec<bool>);

impl RecallTask {
    /// Each dialogue as one text with all its questions and the sentences that answer them, without a chat template, and of its
    /// tokens those that are followed by one of an answer.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn answered(&self, subject: &Subject) -> Result<Vec<AnsweredText>, EvalError> {
        let answered = |dialogue: &Dialogue| {
            let mut ids = subject.tokenizer.encode(&dialogue.context)?;
            let mut followed = vec![false; ids.len()];
            for turn in &dialogue.turns {
                ids.extend(subject.piece(&format!("{}{LEAD}", turn.question))?);
                followed.resize(ids.len().saturating_sub(1), false);
                ids.extend(subject.piece(&format!(" {}", turn.sentence))?);
                followed.resize(ids.len().saturating_sub(1), true);
            }
            followed.resize(ids.len(), false);
            Ok((ids, followed))
        };
        self.dialogues.iter().map(answered).collect()
    }
}

fn trial(subject: &Subject, dialogue: &Dialogue) -> Result<Trial, EvalError> {
    let turn = Turn { lead: LEAD.to_owned(), ..dialogue.turns[0].clone() };
    let (prompt, _) = Talk::new(subject, dialogue, true)?.ask(subject, 0, &turn)?;
    let mut needle = None;
    // Most tokenizers join a word and the space before it, which is not there at the beginning.
    for written in [format!(" {}", turn.sentence), turn.sentence] {
        needle = needle.or(find_needle(&prompt, &subject.piece(&written)?));
    }
    Ok(Trial { prompt, needle, answer: turn.answer.trim().to_owned() })
}

/// Where a needle's tokens stand, if they do: the first place at which as many tokens hold more than nine tenths of its different
/// ones, in any order, as Retrieval Head finds it (nightdessert/Retrieval_Head, `find_needle_idx`). So a needle that says a token
/// twice may be found a token early.
pub(crate) fn find_needle(prompt: &[u32], needle: &[u32]) -> Option<Range<usize>> {
    let wanted: HashSet<u32> = needle.iter().copied().collect();
    let holds = |start: usize| {
        let window = &prompt[start..prompt.len().min(start + needle.len())];
        let there: HashSet<u32> = window.iter().copied().filter(|id| wanted.contains(id)).collect();
        there.len() * 10 > wanted.len() * 9
    };
    let start = (0..prompt.len()).find(|&start| !needle.is_empty() && holds(start))?;
    Some(start..start + needle.len())
}
