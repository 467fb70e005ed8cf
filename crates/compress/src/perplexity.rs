//! The filter that people know: what a model foresees is left out.

use dropcap_methods::Amount;

use crate::fit::{Unit, allowed, fit, whole};
use crate::model::instruction_ids;
use crate::{CompressError, Compressed, Fences, Judge, Reading};

/// Keeps the tokens that the model expected least, as Selective Context (arXiv 2310.06201) and LLMLingua
/// (arXiv 2310.05736) rank them: the score of a token is its negative log-probability in nats behind what precedes it and,
/// where there is one, behind the instruction.
///
/// Tokens of one character go together, and a fenced block is one stretch with the mean score of its tokens. A text longer
/// than the model's positions is read in windows that overlap by half. The first token follows nothing and scores as the
/// best. Unlike LLMLingua this has no coarse stage and reads the whole text, not what it kept of it.
///
/// # Errors
/// An instruction of more than half of the model's positions; a refusal of the model.
pub fn perplexity(
    judge: &mut dyn Judge,
    text: &str,
    instruction: &str,
    budget: Amount,
) -> Result<Compressed, CompressError> {
    let tokens = judge.tokens(text)?;
    let budget = allowed(budget, tokens.len());
    if tokens.len() <= budget {
        return Ok(whole(text, tokens.len(), 0));
    }
    let instruction = match instruction {
        "" => Vec::new(),
        text => instruction_ids(judge, &format!("{text}\n\n"))?,
    };
    let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
    let scores = surprises(judge, &instruction, &ids)?;
    let fences = Fences::of(text);
    let mut units: Vec<Unit> = Vec::new();
    for (index, (token, score)) in tokens.iter().zip(scores).enumerate() {
        // Bytes that no token stands for go with the token before them.
        let start = units.last().map_or(0, |unit| unit.range.end);
        let end = match tokens.get(index + 1) {
            Some(next) => floor(text, next.1.start.max(token.1.end)).max(start),
            None => text.len(),
        };
        match units.last_mut() {
            Some(unit) if fences.hold(start) || end == start || unit.range.is_empty() => {
                unit.score += (score - unit.score) / (unit.tokens + 1) as f64;
                unit.tokens += 1;
                unit.range.end = end;
            }
            _ => units.push(Unit { range: start..end, score, tokens: 1 }),
        }
    }
    units.sort_by(|a, b| b.score.total_cmp(&a.score));
    fit(judge, text, &units, budget, tokens.len())
}

/// The last border of a character at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The negative log-probability of each token.
fn surprises(judge: &mut dyn Judge, instruction: &[u32], ids: &[u32]) -> Result<Vec<f64>, CompressError> {
    let room = judge.positions() - instruction.len();
    let step = (room / 2).max(1);
    let mut readings = Vec::new();
    let mut done = 0;
    while done < ids.len() {
        let end = if done == 0 { room.min(ids.len()) } else { (done + step).min(ids.len()) };
        let begin = end.saturating_sub(room);
        let from = (instruction.len() + done - begin).max(1);
        readings.push(Reading { ids: [instruction, &ids[begin..end]].concat(), from });
        done = end;
    }
    let found = judge.log_probs(readings)?;
    let mut scores: Vec<f64> = found.into_iter().flatten().map(|log_prob| -f64::from(log_prob)).collect();
    if scores.len() < ids.len() {
        let best = scores.iter().copied().fold(0.0, f64::max);
        scores.insert(0, best);
    }
    Ok(scores)
}
