//! The coarse stage: which functions.

use crate::judge::{behind, ids, perplexity_of};
use crate::{CompressError, Judge, Reading};

/// What stands between a chunk or block and the question.
pub(super) const GAP: &str = "\n\n";

/// The perplexity of a question alone, without its first token.
pub(super) fn alone(judge: &mut dyn Judge, question: &[u32]) -> Result<f64, CompressError> {
    let readings = vec![Reading { ids: question.to_vec(), from: 1 }];
    Ok(perplexity_of(judge.log_probs(readings)?.first().map_or(&[], Vec::as_slice)))
}

/// The log-probabilities of a question behind each text.
pub(super) fn questions(
    judge: &mut dyn Judge,
    texts: &[&str],
    question: &[u32],
) -> Result<Vec<Vec<f32>>, CompressError> {
    let positions = judge.positions();
    let readings = texts.iter().map(|text| {
        let before = ids(judge, &format!("{text}{GAP}"))?;
        Ok(behind(&before, question, positions))
    });
    let readings = readings.collect::<Result<Vec<_>, CompressError>>()?;
    judge.log_probs(readings)
}

/// Every chunk with its score, best first, equal ones in their order.
pub(super) fn ranking(
    judge: &mut dyn Judge,
    texts: &[&str],
    question: &[u32],
) -> Result<Vec<(usize, f64)>, CompressError> {
    let alone = alone(judge, question)?;
    let found = questions(judge, texts, question)?;
    let score = |log_probs: &Vec<f32>| alone - perplexity_of(log_probs.get(1..).unwrap_or_default());
    let mut ranking: Vec<(usize, f64)> = found.iter().map(score).enumerate().collect();
    ranking.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(ranking)
}

/// The best chunks until the budget is crossed, the one that crosses it too, in the order of the text.
pub(super) fn selected(ranking: &[(usize, f64)], counts: &[usize], budget: usize) -> Vec<usize> {
    let mut used = 0;
    let mut selected = Vec::new();
    for &(chunk, _) in ranking {
        used += counts[chunk];
        selected.push(chunk);
        if used > budget {
            break;
        }
    }
    selected.sort_unstable();
    selected
}
