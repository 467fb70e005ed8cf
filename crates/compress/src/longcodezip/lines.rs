//! Where lines are surprising.

use crate::judge::{ids, perplexity_of};
use crate::{CompressError, Judge, Reading};

/// The lines of a chunk with what makes them borders of blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct Spikes {
    /// log2 of each line's perplexity behind the lines before it; 0 of an empty one, infinite where no token was scored.
    pub perplexities: Vec<f64>,
    /// What a difference between neighbours must reach.
    pub threshold: f64,
    /// Lines that end a block.
    pub lines: Vec<usize>,
}

/// As the original reads a text: every other of several blank lines, beginning with the first, is a space.
pub(super) fn spaced(chunk: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = chunk.split('\n').collect();
    let (mut index, last) = (1, lines.len().saturating_sub(1));
    while index < last {
        // A line break, and another right behind it: a blank line, and the next pair begins behind that.
        if lines[index].is_empty() {
            lines[index] = " ";
            index += 1;
        }
        index += 1;
    }
    lines
}

/// How many standard deviations above the mean a spike is.
const K: f64 = 0.2;
/// The threshold where fewer than three lines have a perplexity.
const FEW: f64 = 0.5;

/// The spikes of each of several chunks, given as lines.
///
/// All lines of a chunk are read at once. A chunk that is longer than the model's positions has none.
///
/// # Errors
/// A refusal of the model.
pub fn spikes(judge: &mut dyn Judge, chunks: &[Vec<&str>]) -> Result<Vec<Spikes>, CompressError> {
    let mut readings = Vec::new();
    let mut places = Vec::new();
    for lines in chunks {
        let text = lines.join("\n");
        let tokens = judge.tokens(&text)?;
        // The original takes an empty first line for no line at all, and reads the second as the first.
        let second = lines.get(1).filter(|second| lines[0].is_empty() && !second.is_empty());
        let second = second.map(|second| ids(judge, second)).transpose()?;
        let fits = tokens.len() <= judge.positions();
        let reading = tokens.iter().filter(|_| fits).map(|(id, _)| *id).collect();
        readings.push(Reading { ids: reading, from: 1 });
        readings.push(Reading { ids: second.unwrap_or_default(), from: 1 });
        places.push(tokens.into_iter().map(|(_, range)| range.start).collect::<Vec<usize>>());
    }
    let found = judge.log_probs(readings)?;
    let found = found.chunks(2).zip(chunks).zip(places);
    Ok(found.map(|((found, lines), places)| of_chunk(lines, &found[0], &places, &found[1])).collect())
}

fn of_chunk(lines: &[&str], all: &[f32], places: &[usize], second: &[f32]) -> Spikes {
    let mut perplexities = Vec::with_capacity(lines.len());
    let mut begin = 0;
    for (index, line) in lines.iter().enumerate() {
        let end = begin + line.len();
        // The token at place i was scored as number i - 1; a line break belongs to no line.
        let scored = |at: usize| places.partition_point(|&place| place < at).saturating_sub(1).min(all.len());
        let own = if index == 1 && lines[0].is_empty() { second } else { &all[scored(begin)..scored(end)] };
        perplexities.push(match (line.is_empty(), own.is_empty()) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            (false, false) => perplexity_of(own).log2(),
        });
        begin = end + 1;
    }
    let valid: Vec<f64> =
        perplexities.iter().copied().filter(|value| value.is_finite() && *value > 0.0).collect();
    let threshold = if valid.len() < 3 { FEW } else { level(&valid) };
    let is_spike = |index: &usize| {
        let own = perplexities[*index];
        let over = |other: f64| if other.is_finite() { own - other } else { 0.0 };
        let (left, right) = (over(perplexities[index - 1]), over(perplexities[index + 1]));
        own.is_finite() && left >= 0.0 && right >= 0.0 && left.max(right) >= threshold
    };
    let lines = (1..perplexities.len().saturating_sub(1)).filter(is_spike).collect();
    Spikes { perplexities, threshold, lines }
}

/// The mean, and a few standard deviations.
fn level(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
    mean + K * variance.sqrt()
}
