//! Compress, then ask: a context is read and pruned, and only then come questions about it.

mod dialogue;
mod facts;
mod haystack;

pub use dialogue::{Recall, RecallKind, RecallTask};

use dropcap_engine::{Engine, Request};

use crate::EvalError;
use crate::drive::drive;
use crate::record::{Answer, Answers, Memory, Outcome};
use crate::subject::Subject;
use dialogue::Dialogue;

/// Tokens that an answer may take beyond those that are expected.
const SPARE: usize = 8;

/// A dialogue under way.
struct Talk<'a> {
    dialogue: &'a Dialogue,
    ids: Vec<u32>,
    /// Tokens after which methods that prune where a prompt ends do so; none where the question belongs to them.
    context: Option<usize>,
    answers: Answers,
}

/// Asks the questions of some dialogues of a task and hands each one's outcome over when it is through.
///
/// All first questions are asked together, then all second ones. A later question finds the whole talk before it: context,
/// questions, and the answers as the model gave them, up to their first line break.
///
/// # Errors
/// A failed engine; a failure of `done`.
pub(crate) fn ask(
    subject: &Subject,
    engine: &mut Engine,
    task: &RecallTask,
    numbers: &[usize],
    mut done: impl FnMut(usize, Outcome) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    for group in numbers.chunks(GROUP) {
        let mut talks = Vec::with_capacity(group.len());
        for &number in group {
            let dialogue = &task.dialogues[number];
            let ids = subject.tokenizer.encode(&dialogue.context)?;
            let answers = Answers { depth: dialogue.depth, ..Answers::default() };
            talks.push(Talk { dialogue, context: (!task.aware).then_some(ids.len()), ids, answers });
        }
        for turn in 0..task.turns() {
            ask_turn(subject, engine, &mut talks, turn)?;
        }
        for (&number, talk) in group.iter().zip(talks) {
            done(number, Outcome::Answers(talk.answers))?;
        }
    }
    Ok(())
}

/// Dialogues that are in memory as tokens at a time.
const GROUP: usize = 64;

fn ask_turn(
    subject: &Subject,
    engine: &mut Engine,
    talks: &mut [Talk<'_>],
    turn: usize,
) -> Result<(), EvalError> {
    let tokenizer = &subject.tokenizer;
    let mut requests = Vec::with_capacity(talks.len());
    for (index, talk) in talks.iter_mut().enumerate() {
        let asked = &talk.dialogue.turns[turn];
        // Apart from what came before, as it comes after it: nothing joins over the seam.
        talk.ids.extend(subject.piece(&asked.text)?);
        if turn == 0 {
            talk.answers.tokens = talk.ids.len();
        }
        let max_tokens = subject.piece(&asked.answer)?.len() + SPARE;
        let (prompt, stop_tokens) = (talk.ids.clone(), subject.stop_tokens.clone());
        let context = talk.context;
        requests.push((index, Request { prompt, max_tokens, stop_tokens, context, ..Request::default() }));
    }
    drive(engine, requests.into_iter(), |index, answered| {
        let talk = &mut talks[index];
        let expected = talk.dialogue.turns[turn].answer.trim().to_owned();
        let text = tokenizer.decode(&answered.tokens)?;
        let written = text.trim_start().lines().next().unwrap_or_default().trim().to_owned();
        talk.ids.extend(subject.piece(&format!(" {written}"))?);
        talk.answers.turns.push(Answer { share: share(&expected, &written), expected, written });
        talk.answers.memory = Memory::at_end(&answered.report);
        Ok(())
    })
}

/// The share of the expected words that stand in their places. One word counts wherever it stands, as RULER counts it.
fn share(expected: &str, written: &str) -> f64 {
    let bare = |text: &str| -> Vec<String> {
        let words = text.split_whitespace();
        words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()).collect()
    };
    let (expected, written) = (bare(expected), bare(written));
    if let [one] = &expected[..] {
        return f64::from(written.contains(one));
    }
    let right = expected.iter().zip(&written).filter(|(expected, written)| expected == written).count();
    right as f64 / expected.len().max(1) as f64
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
        assert_eq!(share("pear, plum", ""), 0.0);
    }
}
