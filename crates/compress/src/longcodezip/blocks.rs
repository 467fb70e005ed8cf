//! The fine stage: which blocks of a function.

use std::ops::Range;

use super::lines::{spaced, spikes};
use super::rank::{alone, questions};
use super::{Settings, knapsack};
use crate::judge::perplexity_of;
use crate::{CompressError, Fences, Judge, Tokens};

/// The blocks of a function, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks {
    /// Their bytes in the text, line breaks with them.
    pub ranges: Vec<Range<usize>>,
    /// What each takes off the question's perplexity; minus infinity of a blank one.
    pub values: Vec<f64>,
    /// Those that stay in any case: they begin with a definition, a comment or a `return`.
    pub preserved: Vec<bool>,
    /// Those that stay.
    pub kept: Vec<bool>,
}

impl Blocks {
    /// Their indices: the preserved ones, then the others from the most valuable on.
    pub(super) fn by_weight(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.ranges.len()).collect();
        order.sort_by(|&a, &b| {
            self.preserved[b].cmp(&self.preserved[a]).then(self.values[b].total_cmp(&self.values[a]))
        });
        order
    }
}

/// A rate from which on a function stays whole.
const WHOLE: f64 = 0.999;
/// What the first line of a block of a definition has in it.
const DEFINITIONS: [&str; 5] = ["def ", "class ", "function ", "fn ", "func "];

/// A function that has been cut.
struct Cut<'a> {
    lines: Vec<&'a str>,
    /// Its blocks, as lines.
    blocks: Vec<Range<usize>>,
    texts: Vec<String>,
}

/// For each of the `selected` functions its blocks, or none where it stays whole.
pub(super) fn blocks(
    judge: &mut dyn Judge,
    text: &str,
    chunks: &[Range<usize>],
    selected: &[usize],
    rates: &[f64],
    question: &[u32],
    settings: &Settings,
) -> Result<Vec<Option<Blocks>>, CompressError> {
    let mut found: Vec<Option<Blocks>> = selected.iter().map(|_| None).collect();
    let to_cut: Vec<usize> = (0..selected.len()).filter(|&index| rates[index] < WHOLE).collect();
    let lines: Vec<Vec<&str>> =
        to_cut.iter().map(|&index| spaced(&text[chunks[selected[index]].clone()])).collect();
    let spikes = spikes(judge, &lines)?;
    let fences = Fences::of(text);
    let mut cuts = Vec::new();
    for ((index, lines), spikes) in to_cut.into_iter().zip(lines).zip(spikes) {
        let chunk = &chunks[selected[index]];
        let starts = starts(&text[chunk.clone()], chunk.start);
        let ends = spikes.lines.iter().map(|line| line + 1).filter(|&line| !fences.hold(starts[line]));
        let cut = cut(lines, ends);
        if cut.texts.iter().filter(|block| !block.trim().is_empty()).count() >= settings.least {
            cuts.push((index, starts, cut));
        }
    }
    if cuts.is_empty() {
        return Ok(found);
    }
    let alone = alone(judge, question)?;
    let said: Vec<&str> = cuts.iter().flat_map(|(_, _, cut)| &cut.texts).map(String::as_str).collect();
    let said: Vec<&str> = said.into_iter().filter(|block| !block.trim().is_empty()).collect();
    let mut scored = questions(judge, &said, question)?.into_iter();
    for (index, starts, cut) in cuts {
        let chunk = &text[chunks[selected[index]].clone()];
        let target = (judge.tokens(chunk)?.len() as f64 * rates[index]) as usize;
        let mut values = Vec::new();
        for block in &cut.texts {
            values.push(match block.trim().is_empty() {
                true => f64::NEG_INFINITY,
                false => alone - perplexity_of(&scored.next().unwrap_or_default()),
            });
        }
        let range = |block: &Range<usize>| starts[block.start]..starts[block.end];
        let ranges = cut.blocks.iter().map(range).collect();
        let preserved: Vec<bool> =
            cut.blocks.iter().map(|block| is_preserved(&cut.lines[block.clone()], settings)).collect();
        let kept = kept(judge, &cut.texts, &values, &preserved, target)?;
        found[index] = Some(Blocks { ranges, values, preserved, kept });
    }
    Ok(found)
}

/// The first byte of each line of a chunk in the text, and the byte behind the last.
fn starts(chunk: &str, start: usize) -> Vec<usize> {
    let breaks = chunk.match_indices('\n').map(|(at, _)| start + at + 1);
    [start].into_iter().chain(breaks).chain([start + chunk.len()]).collect()
}

fn cut<'a>(lines: Vec<&'a str>, ends: impl Iterator<Item = usize>) -> Cut<'a> {
    let mut begin = 0;
    let mut blocks = Vec::new();
    for end in ends.chain([lines.len()]) {
        blocks.push(begin..end);
        begin = end;
    }
    let texts = blocks.iter().map(|block| lines[block.clone()].join("\n")).collect();
    Cut { lines, blocks, texts }
}

fn is_preserved(lines: &[&str], settings: &Settings) -> bool {
    let first = lines.iter().find(|line| !line.trim().is_empty());
    first.is_some_and(|line| {
        DEFINITIONS.iter().any(|word| line.contains(word))
            || line.trim().starts_with(settings.language.comment())
            || line.contains("return ")
    })
}

/// The preserved blocks, and the best of the others in what is left of `target`.
fn kept(
    judge: &dyn Tokens,
    texts: &[String],
    values: &[f64],
    preserved: &[bool],
    target: usize,
) -> Result<Vec<bool>, CompressError> {
    let weights = texts.iter().map(|block| Ok(judge.tokens(block)?.len()));
    let weights = weights.collect::<Result<Vec<usize>, CompressError>>()?;
    let used: usize =
        weights.iter().zip(preserved).filter(|(_, preserved)| **preserved).map(|(weight, _)| weight).sum();
    let mut kept = preserved.to_vec();
    let others: Vec<usize> = (0..texts.len()).filter(|&index| !preserved[index]).collect();
    let value = |index: usize| if values[index].is_finite() { values[index] } else { 0.0 };
    let items: Vec<(usize, f64)> = others.iter().map(|&index| (weights[index], value(index))).collect();
    for item in knapsack(&items, target.saturating_sub(used)) {
        kept[others[item]] = true;
    }
    Ok(kept)
}
