//! Compress, then ask: a context is read and pruned, and only then come questions about it.

mod dialogue;
mod facts;
mod haystack;
mod maker;
mod talk;
mod trial;

pub use dialogue::{Recall, RecallKind, RecallTask};

use dropcap_engine::{Engine, Request, drive};

use crate::EvalError;
use crate::record::{Memory, Outcome};
use crate::subject::Subject;
use talk::Talk;
pub use trial::AnsweredText;
pub(crate) use trial::Trial;
#[cfg(test)]
pub(crate) use trial::find_needle;

/// Tokens that an answer may take beyond those that are expected.
const SPARE: usize = 8;

/// Asks the questions of some dialogues of a task and hands each one's outcome over when it is through.
///
/// All first questions are asked together, then all second ones. A later question finds the whole talk before it: context,
/// questions, and the answers as the model gave them.
///
/// # Errors
/// A failed engine; a template that refuses a talk; a failure of `done`.
pub(crate) fn ask(
    subject: &Subject,
    engine: &mut Engine,
    task: &RecallTask,
    numbers: &[usize],
    mut done: impl FnMut(usize, Outcome) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    for group in numbers.chunks(subject.max_batch.max(1)) {
        let talks = group.iter().map(|&number| Talk::new(subject, &task.dialogues[number], task.aware));
        let mut talks = talks.collect::<Result<Vec<_>, _>>()?;
        for turn in 0..task.turns() {
            ask_turn(subject, engine, &mut talks, turn)?;
        }
        for (&number, talk) in group.iter().zip(talks) {
            done(number, Outcome::Answers(talk.answers))?;
        }
    }
    Ok(())
}

fn ask_turn(
    subject: &Subject,
    engine: &mut Engine,
    talks: &mut [Talk<'_>],
    number: usize,
) -> Result<(), EvalError> {
    let mut requests = Vec::with_capacity(talks.len());
    for (index, talk) in talks.iter_mut().enumerate() {
        let turn = &talk.dialogue.turns[number];
        let (prompt, max_tokens) = talk.ask(subject, number, turn)?;
        if number == 0 {
            talk.answers.tokens = prompt.len();
        }
        let (context, stop_tokens) = (talk.context, subject.stop_tokens.clone());
        requests.push((index, Request { prompt, max_tokens, stop_tokens, context, ..Request::default() }));
    }
    drive(engine, requests.into_iter(), |index, answered| {
        let talk = &mut talks[index];
        talk.hear(subject, &talk.dialogue.turns[number], &answered.tokens)?;
        talk.answers.memory = Memory::at_end(&answered.report);
        Ok(())
    })
}

/// The share of the expected words that stand one behind the other, wherever they begin: who says "The list is:" first is
/// not wrong. One word counts wherever it stands, as RULER counts it.
pub(crate) fn share(expected: &str, written: &str) -> f64 {
    let bare = |text: &str| -> Vec<String> {
        let words = text.split_whitespace();
        words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()).collect()
    };
    let (expected, written) = (bare(expected), bare(written));
    let right = |from: usize| expected.iter().zip(&written[from..]).filter(|(a, b)| a == b).count();
    let most = (0..written.len()).map(right).max().unwrap_or(0);
    most as f64 / expected.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn one_word_counts_anywhere_and_a_list_by_its_places() {
        assert_eq!(share("48213", "The number is 48213."), 1.0);
        assert_eq!(share("48213", "4821"), 0.0);
        assert_eq!(share("pear, plum, fig, nut", "pear, plum, nut, fig."), 0.5);
        assert_eq!(share("pear, plum", "Pear, plum and more"), 1.0);
        assert_eq!(share("pear, plum", "The list is:\n\npear, plum"), 1.0);
        assert_eq!(share("pear, plum", ""), 0.0);
    }
}
