//! What a model forgets without some of its heads.

use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::evaluate::Progress;
use crate::record::Outcome;
use crate::subject::{Compute, Subject};
use crate::{EvalError, RecallTask, recall};

/// Which heads are silenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masking {
    /// How many: those with the highest scores, and as many of the others.
    pub top: usize,
    /// How often others are drawn.
    pub draws: usize,
    /// Equal seeds draw equal heads.
    pub seed: u64,
}

/// Which heads were silenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// None.
    None,
    /// Those with the highest scores.
    Top,
    /// As many of the others, drawn for this time, counted from 0.
    Others(usize),
}

/// What a model could still answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked {
    /// Which heads were silenced.
    pub mask: Mask,
    /// The same as layers and heads of the scores, in the order of scores or of the draw.
    pub heads: Vec<(usize, usize)>,
    /// Prompts that were answered right.
    pub right: usize,
    /// Prompts that were asked.
    pub asked: usize,
}

/// Asks the questions of a task with all heads, without the heads of the highest scores, and without as many others for each
/// draw: the claim of Wu et al. 2024 (arXiv 2404.15574, section 4) on the model at hand.
///
/// `scores` is `[L][heads]`, of query heads, or of KV heads, and then all query heads of one are silenced together.
///
/// # Errors
/// A model on a device; scores of another model; more heads than there are others; a failed engine.
pub fn mask_heads(
    subject: &Subject,
    task: &RecallTask,
    scores: &[Vec<f64>],
    masking: Masking,
    progress: &mut dyn Progress,
) -> Result<Vec<Masked>, EvalError> {
    let decoder = subject.on_the_processor("masking heads")?;
    let config = &subject.config;
    let width = scores.first().map_or(0, Vec::len);
    let fits = |width: usize| width == config.heads || width == config.kv_heads;
    if scores.len() != config.layers || !fits(width) || scores.iter().any(|heads| heads.len() != width) {
        let expected = (config.layers, config.heads, config.kv_heads);
        return Err(EvalError::OtherHeads { got: (scores.len(), width), expected });
    }
    let group = config.heads / width;
    let ranked = ranking(scores);
    if masking.top == 0 || 2 * masking.top > ranked.len() {
        return Err(EvalError::TooManyHeads { given: masking.top, heads: ranked.len() });
    }
    let (top, others) = ranked.split_at(masking.top);
    let drawn = |draw: usize| {
        let mut random = ChaCha8Rng::seed_from_u64(masking.seed);
        random.set_stream(draw as u64);
        let mut others = others.to_vec();
        others.shuffle(&mut random);
        others.truncate(masking.top);
        (Mask::Others(draw), others)
    };
    let masks = [(Mask::None, Vec::new()), (Mask::Top, top.to_vec())].into_iter();
    let Some(dense) = subject.methods.first() else { return Ok(Vec::new()) };
    let numbers: Vec<usize> = (0..task.len()).collect();
    let mut lines = Vec::new();
    for (mask, heads) in masks.chain((0..masking.draws).map(drawn)) {
        progress.begin(&task.name, &mask.to_string(), numbers.len(), 0);
        let silent: Vec<(usize, usize)> = heads
            .iter()
            .flat_map(|&(layer, head)| (head * group..(head + 1) * group).map(move |head| (layer, head)))
            .collect();
        let compute = Compute::Host(Arc::new(decoder.without_heads(&silent)?));
        let mut engine = subject.engine_on(&compute, dense)?;
        let mut right = 0;
        recall::ask(subject, &mut engine, task, &numbers, |_, outcome| {
            progress.advance();
            if let Outcome::Answers(answers) = outcome {
                right += usize::from(answers.turns.iter().all(|answer| answer.is_right()));
            }
            Ok(())
        })?;
        lines.push(Masked { mask, heads, right, asked: numbers.len() });
    }
    Ok(lines)
}

/// All heads of `scores` `[L][heads]` by these, the highest first; of equal ones that of the lower layer, and of the lower place
/// there.
#[must_use]
pub fn ranking(scores: &[Vec<f64>]) -> Vec<(usize, usize)> {
    let heads = |(layer, heads): (usize, &Vec<f64>)| (0..heads.len()).map(move |head| (layer, head));
    let mut ranked: Vec<(usize, usize)> = scores.iter().enumerate().flat_map(heads).collect();
    ranked.sort_by(|a, b| scores[b.0][b.1].total_cmp(&scores[a.0][a.1]));
    ranked
}

impl std::fmt::Display for Mask {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => out.write_str("all heads"),
            Self::Top => out.write_str("without the top"),
            Self::Others(draw) => write!(out, "without others, draw {}", draw + 1),
        }
    }
}
