//! A dialogue on its way through the model: what was said so far, as the tokens that the model reads.

use super::dialogue::{Dialogue, Turn};
use super::{SPARE, share};
use crate::EvalError;
use crate::record::{Answer, Answers};
use crate::subject::{Subject, Template};

/// A dialogue under way.
pub(super) struct Talk<'a> {
    pub(super) dialogue: &'a Dialogue,
    /// Tokens after which methods that prune where a prompt ends do so; none where the question belongs to them.
    pub(super) context: Option<usize>,
    pub(super) answers: Answers,
    said: Said<'a>,
}

enum Said<'a> {
    /// One text that the model goes on with, as a model without a template is asked.
    Text(Vec<u32>),
    /// Messages of a person and the model in turn.
    Messages(&'a dyn Template, Vec<String>),
}

impl<'a> Talk<'a> {
    /// A talk in which nothing was said but the context; `aware` lets the first question belong to what is pruned.
    pub(super) fn new(subject: &'a Subject, dialogue: &'a Dialogue, aware: bool) -> Result<Self, EvalError> {
        let (said, context) = match (&subject.template, dialogue.turns.first()) {
            (Some(template), Some(first)) => {
                let alone = template.encode(std::slice::from_ref(&dialogue.context))?;
                let asked = template.encode(&[format!("{}{}", dialogue.context, first.question)])?;
                (Said::Messages(template.as_ref(), vec![dialogue.context.clone()]), common(&alone, &asked))
            }
            _ => {
                let ids = subject.tokenizer.encode(&dialogue.context)?;
                let length = ids.len();
                (Said::Text(ids), length)
            }
        };
        let answers = Answers { depth: dialogue.depth, ..Answers::default() };
        Ok(Self { dialogue, context: (!aware).then_some(context), answers, said })
    }

    /// Asks: the tokens of all that was said with one more question, and how many the answer may take.
    pub(super) fn ask(
        &mut self,
        subject: &Subject,
        number: usize,
        turn: &Turn,
    ) -> Result<(Vec<u32>, usize), EvalError> {
        let answer = subject.piece(&turn.answer)?.len() + SPARE;
        Ok(match &mut self.said {
            // Apart from what came before, as it comes after it: nothing joins over the seam.
            Said::Text(ids) => {
                ids.extend(subject.piece(&format!("{}{}", turn.question, turn.lead))?);
                (ids.clone(), answer)
            }
            Said::Messages(template, messages) => {
                match messages.last_mut().filter(|_| number == 0) {
                    Some(context) => context.push_str(&turn.question),
                    None => messages.push(turn.question.trim_start().to_owned()),
                }
                // The model begins its answer itself, as far as it does.
                (template.encode(messages)?, answer + subject.piece(&turn.lead)?.len())
            }
        })
    }

    /// Hears the answer, and judges it.
    pub(super) fn hear(&mut self, subject: &Subject, turn: &Turn, tokens: &[u32]) -> Result<(), EvalError> {
        let text = subject.tokenizer.decode(tokens)?;
        let expected = turn.answer.trim().to_owned();
        let written = match &mut self.said {
            // What ends an answer is the next line: nothing else tells the model to stop.
            Said::Text(ids) => {
                let written = text.trim_start().lines().next().unwrap_or_default().trim().to_owned();
                ids.extend(subject.piece(&format!(" {written}"))?);
                written
            }
            Said::Messages(_, messages) => {
                let written = text.trim().to_owned();
                messages.push(written.clone());
                written
            }
        };
        self.answers.turns.push(Answer { share: share(&expected, &written), expected, written });
        Ok(())
    }
}

/// How many tokens two texts have in common at their beginnings: where one is the other with more text before the same
/// end, the tokens that do not depend on what was added.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
