//! Tasks that are scored by how likely their continuations are, as lm-evaluation-harness scores them.

mod examples;
mod hellaswag;
mod json;
mod pair;

pub use examples::{Example, Kind, LikelihoodTask, Pair};

use std::collections::BTreeMap;

use dropcap_engine::{Answered, Engine, LogProbs, PromptLogProbs, Request, drive};

use crate::EvalError;
use crate::record::{Likelihood, Memory, Outcome};
use crate::subject::Subject;
use pair::encode;

/// Scores some examples of a task and hands each one's outcome over when all of its continuations are through.
///
/// # Errors
/// A failed engine; a text that the tokenizer refuses; a failure of `done`.
pub(crate) fn score(
    subject: &Subject,
    engine: &mut Engine,
    task: &LikelihoodTask,
    numbers: &[usize],
    mut done: impl FnMut(usize, Outcome) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    // Encoded as they are asked for: a large task has tens of thousands of continuations.
    let mut open: BTreeMap<usize, Vec<Option<Answered>>> = BTreeMap::new();
    let mut encoded = Vec::new();
    for group in numbers.chunks(GROUP) {
        encoded.clear();
        for &number in group {
            let example = &task.examples[number];
            let place = task.place(number);
            let pairs = example.pairs.iter().map(|pair| encode(subject, pair, &place));
            let pairs = pairs.collect::<Result<Vec<_>, _>>()?;
            if let Some(choice) = pairs.iter().position(Option::is_none) {
                done(number, Outcome::NoToken { choice })?;
                continue;
            }
            let pairs: Vec<_> = pairs.into_iter().flatten().collect();
            // The last token of a continuation is scored and never fed, so it needs no position; the engine's prompt
            // has it all the same.
            match pairs
                .iter()
                .map(|(ids, _)| ids.len())
                .max()
                .filter(|&most| most > subject.config.max_positions)
            {
                Some(tokens) => done(number, Outcome::TooLong { tokens })?,
                None => {
                    open.insert(number, pairs.iter().map(|_| None).collect());
                    encoded
                        .extend(pairs.into_iter().enumerate().map(|(index, pair)| ((number, index), pair)));
                }
            }
        }
        let requests = encoded.drain(..).map(|(key, (ids, from))| (key, request(ids, from)));
        drive(engine, requests, |(number, index), answered| {
            let Some(slots) = open.get_mut(&number) else { return Ok(()) };
            slots[index] = Some(answered);
            if slots.iter().any(Option::is_none) {
                return Ok(());
            }
            let answers: Vec<Answered> = open.remove(&number).into_iter().flatten().flatten().collect();
            done(number, Outcome::Likelihood(outcome(&task.examples[number], &answers)))
        })?;
    }
    Ok(())
}

/// Examples that are in memory as tokens at a time.
const GROUP: usize = 256;

fn request(prompt: Vec<u32>, from: usize) -> Request {
    let log_probs = LogProbs { prompt: Some(PromptLogProbs { from, top: 1 }), generated: None };
    Request { prompt, max_tokens: 0, log_probs, context: Some(from), ..Request::default() }
}

fn outcome(example: &Example, answers: &[Answered]) -> Likelihood {
    let likelihood = |answer: &Answered| answer.log_probs.iter().map(|token| f64::from(token.log_prob)).sum();
    let greedy = |answer: &Answered| {
        let likeliest = |token: &dropcap_engine::TokenLogProb| token.top.first().map(|top| top.0);
        answer.log_probs.iter().all(|token| likeliest(token) == Some(token.token))
    };
    Likelihood {
        gold: example.gold,
        log_likelihood: answers.iter().map(likelihood).collect(),
        characters: example.pairs.iter().map(|pair| pair.characters).collect(),
        greedy: answers.iter().map(greedy).collect(),
        memory: Memory::at_end(&answers.iter().map(|answer| answer.report).sum()),
    }
}
