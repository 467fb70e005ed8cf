//! Retrieval heads: those that look at the token that comes next where it stands in the context.

use std::ops::Range;

use super::looks::Watch;
use super::needles::{Reader, Written};
use crate::evaluate::Progress;
use crate::recall::{Trial, share};
use crate::subject::Subject;
use crate::{EvalError, RecallTask};

/// Tokens of an answer at most, as in the original.
const MOST: usize = 50;

/// What the heads of a model copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieved {
    /// Of each query head its score in each prompt that was answered, `[L][h][answered]`.
    pub trials: Vec<Vec<Vec<f64>>>,
    /// Prompts that were asked.
    pub asked: usize,
    /// Prompts that were answered; the others say nothing.
    pub answered: usize,
}

/// The retrieval score of every query head (Wu et al. 2024, arXiv 2404.15574): the share of the needle's tokens that a head
/// copied, which is that it looked at that very token within the needle most of all in the step that wrote it.
///
/// The model answers the first question of each prompt greedily, in 50 tokens at most or to the end of a line, many prompts at
/// once. As in the original a token that is written twice counts twice, so a score may exceed 1. A prompt counts if the
/// answer that was asked for was written (the original: half of the needle's words).
///
/// # Errors
/// A model on a device; no prompt that was answered; a prompt that does not fit the memory.
pub fn retrieval_heads(
    subject: &Subject,
    task: &RecallTask,
    progress: &mut dyn Progress,
) -> Result<Retrieved, EvalError> {
    let decoder = subject.on_the_processor("a profile of retrieval heads")?;
    let watch = Watch::default();
    let pool = decoder.page_pool(&watch, subject.kv_dtype, subject.kv_limit)?;
    let (team, chunk) = (&*subject.team, subject.chunk);
    let reader = Reader { decoder, team, pool: &pool, watch: &watch, chunk, most: MOST };
    let trials = task.trials(subject)?;
    progress.begin(&task.name, "", trials.len(), 0);
    let mut scores: Vec<Vec<Vec<f64>>> = Vec::new();
    let mut missed = None;
    for batch in trials.chunks(subject.max_batch.max(1)) {
        let prompts: Vec<&[u32]> = batch.iter().map(|trial| &*trial.prompt).collect();
        for (trial, written) in batch.iter().zip(reader.write(&prompts, &|tokens| ends(subject, tokens))?) {
            progress.advance();
            let text = subject.tokenizer.decode(&written.tokens)?;
            match &trial.needle {
                Some(needle) if share(&trial.answer, &text) >= 1.0 => {
                    scores.push(copied(&trial.prompt, needle, &written));
                }
                _ => missed = missed.or(Some(why(trial, &text))),
            }
        }
    }
    if scores.is_empty() {
        let reason = missed.unwrap_or_else(|| "there was none".to_owned());
        return Err(EvalError::NothingRetrieved { asked: trials.len(), reason });
    }
    let of_head = |layer: usize, head: usize| scores.iter().map(|trial| trial[layer][head]).collect();
    let of_layer = |layer| (0..subject.config.heads).map(|head| of_head(layer, head)).collect();
    let (asked, answered) = (trials.len(), scores.len());
    Ok(Retrieved { trials: (0..subject.config.layers).map(of_layer).collect(), asked, answered })
}

/// Whether an answer is over: at a token that ends texts, or at the end of its first line.
fn ends(subject: &Subject, tokens: &[u32]) -> bool {
    let stops = tokens.last().is_some_and(|last| subject.stop_tokens.contains(last));
    stops || subject.tokenizer.decode(tokens).is_ok_and(|text| text.trim_start().contains('\n'))
}

fn why(trial: &Trial, text: &str) -> String {
    match trial.needle {
        Some(_) => format!("one was {:?} in place of {:?}", text.trim(), trial.answer),
        None => "the tokenizer joins the needle with what stands around it".to_owned(),
    }
}

/// Each head's score in one prompt, `[L][h]`: 1 of the needle's tokens for every step in which the head looked at a token of the
/// needle and that token was written.
pub(super) fn copied(prompt: &[u32], needle: &Range<usize>, written: &Written) -> Vec<Vec<f64>> {
    let mut scores: Vec<Vec<f64>> = Vec::new();
    for (&token, looks) in written.tokens.iter().zip(&written.looks) {
        scores.resize_with(looks.len(), Vec::new);
        for (scores, looks) in scores.iter_mut().zip(looks) {
            scores.resize(looks.len(), 0.0);
            for (score, &look) in scores.iter_mut().zip(looks) {
                let look = look as usize;
                if needle.contains(&look) && prompt.get(look) == Some(&token) {
                    *score += 1.0 / needle.len() as f64;
                }
            }
        }
    }
    scores
}
