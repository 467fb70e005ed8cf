//! LongCodeZip (arXiv 2510.00446): functions by what they help with an instruction, and blocks within them.
//!
//! [`plan`] is the published code, its peculiarities with it, and is held against its numbers; [`longcodezip`] makes a plan
//! that is larger than the budget and keeps of it what the budget holds.

mod blocks;
mod knapsack;
mod lines;
mod rank;
mod rates;

use std::ops::Range;

use dropcap_methods::Amount;

use crate::fit::{Unit, allowed, fit, whole};
use crate::judge::ids;
use crate::model::instruction_ids;
use crate::{CompressError, Compressed, Fences, Judge, Language, Tokens, chunks};

pub use blocks::Blocks;
pub use knapsack::knapsack;
pub use lines::{Spikes, spikes};

/// What a plan aims at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Tokens of the functions that are chosen, before any block is left out.
    pub target: usize,
    /// Tokens beyond that; the function that crosses both is still taken. The original has 100.
    pub slack: usize,
    /// The share of the lines of chosen functions that stays.
    pub fine: f64,
    /// How much more of a function stays that helps more: 0 keeps the same share of all. The original has 0.5.
    pub beta: f64,
    /// Functions of fewer lines, or of fewer blocks that are not blank, stay whole. The original has 5.
    pub least: usize,
    /// Which lines are comments.
    pub language: Language,
}

/// What the method makes of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Every chunk with what it takes off the perplexity of the instruction, best first; empty where all fits the target.
    pub ranking: Vec<(usize, f64)>,
    /// The chunks that are chosen, in the order of the text.
    pub functions: Vec<Function>,
}

/// A chunk that is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its index.
    pub chunk: usize,
    /// The share of it that is to stay.
    pub rate: f64,
    /// Its blocks; none where it stays whole.
    pub blocks: Option<Blocks>,
}

/// How the published method would shorten `text`, cut into `chunks`, for `question`.
///
/// A chunk scores PPL(question) - PPL(question | chunk, blank line), without the question's first token. The best are taken
/// until [`Settings::target`] and [`Settings::slack`] are used up. Within each, blocks end behind lines of high perplexity;
/// those that begin with a definition, a comment or a `return` stay, and a knapsack fills the rest by what blocks take off
/// the question's perplexity.
///
/// Peculiar, and kept so that numbers are the original's: a block's perplexity counts the question's first token and that
/// of the question alone does not, so that a short question finds no block worth anything; the level of spikes is compared
/// with differences between lines; where functions that stay whole use all lines up, the others stay whole too.
///
/// # Errors
/// A refusal of the model.
pub fn plan(
    judge: &mut dyn Judge,
    text: &str,
    chunks: &[Range<usize>],
    question: &str,
    settings: &Settings,
) -> Result<Plan, CompressError> {
    let texts: Vec<&str> = chunks.iter().map(|chunk| &text[chunk.clone()]).collect();
    let question = ids(judge, question)?;
    let counts = texts.iter().map(|chunk| Ok(judge.tokens(chunk)?.len()));
    let counts = counts.collect::<Result<Vec<usize>, CompressError>>()?;
    if counts.iter().sum::<usize>() <= settings.target {
        let functions = (0..chunks.len()).map(|chunk| Function { chunk, rate: 1.0, blocks: None });
        return Ok(Plan { ranking: Vec::new(), functions: functions.collect() });
    }
    let ranking = rank::ranking(judge, &texts, &question)?;
    let selected = rank::selected(&ranking, &counts, settings.target + settings.slack);
    let rates = rates::rates(&texts, &selected, &ranking, settings);
    let blocks = blocks::blocks(judge, text, chunks, &selected, &rates, &question, settings)?;
    let functions = selected.iter().zip(rates).zip(blocks);
    let functions = functions.map(|((&chunk, rate), blocks)| Function { chunk, rate, blocks });
    Ok(Plan { ranking, functions: functions.collect() })
}

/// The share of the chosen functions' lines that [`longcodezip`] aims at: functions for that much more than the budget are
/// chosen.
const FINE: f64 = 0.8;
/// The least tokens of a piece that a chunk is cut into where it is larger than the budget or the model can take.
const LEAST_PIECE: usize = 16;

/// Keeps of `text` what helps most with `instruction`.
///
/// A [`plan`] for more than the budget is made, then the budget is filled: with what the plan keeps, function by function
/// as they rank, their preserved blocks first; then with what it leaves out of them; then with other functions. The score of
/// a span is that of its function, or of its block where the function was cut into blocks.
///
/// # Errors
/// No instruction, or one of more than half of the model's positions; a refusal of the model.
pub fn longcodezip(
    judge: &mut dyn Judge,
    text: &str,
    instruction: &str,
    language: Language,
    budget: Amount,
) -> Result<Compressed, CompressError> {
    if instruction.trim().is_empty() {
        return Err(CompressError::NoInstruction { method: "longcodezip" });
    }
    instruction_ids(judge, instruction)?;
    let tokens = judge.tokens(text)?.len();
    let budget = allowed(budget, tokens);
    if tokens <= budget {
        return Ok(whole(text, tokens, 0));
    }
    let most = (judge.positions() / 2).min(budget / 2).max(LEAST_PIECE);
    let chunks = pieces(judge, text, &chunks(text, language), most)?;
    let target = (budget as f64 / FINE) as usize;
    let settings = Settings { target, slack: 0, fine: FINE, beta: 0.5, least: 5, language };
    let plan = plan(judge, text, &chunks, instruction, &settings)?;
    let units = units(judge, text, &chunks, &plan)?;
    fit(judge, text, &units, budget, tokens)
}

/// Chunks of at most `most` tokens: larger ones are cut between lines, lines that are larger between tokens, and fenced
/// blocks never.
fn pieces(
    judge: &dyn Tokens,
    text: &str,
    chunks: &[Range<usize>],
    most: usize,
) -> Result<Vec<Range<usize>>, CompressError> {
    let fences = Fences::of(text);
    let mut pieces = Vec::new();
    for chunk in chunks {
        let tokens = judge.tokens(&text[chunk.clone()])?;
        let (mut begin, mut first, mut line) = (chunk.start, 0, None);
        for (index, (_, range)) in tokens.iter().enumerate() {
            let at = chunk.start + range.start;
            let may_cut = at > begin && text.is_char_boundary(at) && !fences.hold(at);
            if index - first >= most {
                // The last line break, or here where one line is all that there is.
                if let Some((at, index)) = line.take().or(may_cut.then_some((at, index))) {
                    pieces.push(begin..at);
                    (begin, first) = (at, index);
                }
            }
            if may_cut && at > begin && text[..at].ends_with('\n') {
                line = Some((at, index));
            }
        }
        pieces.push(begin..chunk.end);
    }
    Ok(pieces)
}

/// Everything that may stay, what is to stay before all else first.
fn units(
    judge: &dyn Tokens,
    text: &str,
    chunks: &[Range<usize>],
    plan: &Plan,
) -> Result<Vec<Unit>, CompressError> {
    let (mut kept, mut left) = (Vec::new(), Vec::new());
    let mut rest = Vec::new();
    for &(chunk, score) in &plan.ranking {
        let unit = |range: Range<usize>, score: f64| -> Result<Unit, CompressError> {
            Ok(Unit { tokens: judge.tokens(&text[range.clone()])?.len(), range, score })
        };
        match plan.functions.iter().find(|function| function.chunk == chunk) {
            None => rest.push(unit(chunks[chunk].clone(), score)?),
            Some(Function { blocks: None, .. }) => kept.push(unit(chunks[chunk].clone(), score)?),
            Some(Function { blocks: Some(blocks), .. }) => {
                for index in blocks.by_weight() {
                    let value = blocks.values[index];
                    let unit =
                        unit(blocks.ranges[index].clone(), if value.is_finite() { value } else { 0.0 })?;
                    if blocks.kept[index] { kept.push(unit) } else { left.push(unit) }
                }
            }
        }
    }
    kept.extend(left);
    kept.extend(rest);
    Ok(kept)
}
