//! A prompt that evolves into shorter ones: PromptQuine (arXiv 2506.17930).
//!
//! The rules are those of the published code's generational search without successive halving. Its random numbers come from the
//! clock; here they come from a seed.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::tapruning::{Cut, pieces};
use crate::{CompressError, Search};

/// How a prompt evolves; the defaults are the published ones, the number of prompts apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evolution {
    /// Prompts that live on from one generation to the next, at least 1.
    pub population: usize,
    /// Prompts that are made in a generation, at least 1.
    pub offspring: usize,
    /// No generation begins once so many prompts were made.
    pub prompts: usize,
    /// Nor once those that live have so many tokens or fewer, on average.
    pub least: usize,
    /// The seed of all choices.
    pub seed: u64,
}

impl Default for Evolution {
    fn default() -> Self {
        Self { population: 30, offspring: 50, prompts: 1000, least: 15, seed: 0 }
    }
}

/// Share of a generation that competes for being a parent.
const TOURNAMENT: f64 = 0.2;
/// Tokens that an offspring lacks at most, of its parent's.
const MOST_PRUNED: usize = 4;
/// Draws of a number of tokens before a parent counts as too short to lose any.
const TRIES: usize = 10;

/// A prompt that is alive: the pieces of the whole that it has.
#[derive(Debug, Clone)]
struct Alive {
    has: Vec<bool>,
    text: String,
    score: f64,
}

/// Scores prompts, one number for each.
pub type ScoreAll<'a> = dyn FnMut(&[String]) -> Result<Vec<f64>, CompressError> + 'a;

/// Leaves out tokens of `prompt` at random, generation by generation: each offspring lacks one to four of its parent's, the parent
/// is the best of a fifth of the living, drawn with repetition, and the best of the last generation live on. Placeholders
/// (`{name}`) stay.
///
/// `cut` gives the tokens of a prompt as bytes, `score` says how good prompts are. The result is the best prompt of all
/// generations, the shortest of equal ones; `accepted` are those that were better than all before, or as good and
/// shorter. The same scores and seed give the same search.
///
/// # Errors
/// A score that is no number; failures of `cut` and `score`.
pub fn promptquine(
    prompt: &str,
    rule: &Evolution,
    cut: &mut Cut<'_>,
    score: &mut ScoreAll<'_>,
) -> Result<Search, CompressError> {
    let pieces = pieces(prompt, cut(prompt)?);
    let texts: Vec<&str> = pieces.iter().map(|(place, _)| &prompt[place.clone()]).collect();
    let free: Vec<usize> = (0..pieces.len()).filter(|&index| !pieces[index].1).collect();
    let mut random = ChaCha8Rng::seed_from_u64(rule.seed);
    let whole = Alive {
        has: vec![true; pieces.len()],
        text: prompt.to_owned(),
        score: scores(score, &[prompt.to_owned()])?[0],
    };
    let mut best = whole.clone();
    let mut search =
        Search { prompt: prompt.to_owned(), accepted: vec![(best.text.clone(), best.score)], evaluations: 1 };
    let mut made = 1;
    let mut living = vec![whole; rule.population.max(1)];
    while made < rule.prompts && mean_length(&living) > rule.least as f64 {
        let known: HashSet<&str> = living.iter().map(|one| one.text.as_str()).collect();
        let mut born: Vec<(Vec<bool>, String)> = Vec::new();
        for _ in 0..rule.offspring.max(1) {
            let Some(has) = offspring(&living, &free, &mut random) else { continue };
            let text: String =
                texts.iter().zip(&has).filter(|(_, has)| **has).map(|(text, _)| *text).collect();
            if !known.contains(text.as_str()) {
                born.push((has, text));
            }
        }
        made += rule.offspring.max(1);
        let asked: Vec<String> = born.iter().map(|(_, text)| text.clone()).collect();
        let found = if asked.is_empty() { Vec::new() } else { scores(score, &asked)? };
        search.evaluations += found.len();
        for ((has, text), score) in born.into_iter().zip(found) {
            let one = Alive { has, text, score };
            let is_shorter = one.length() < best.length();
            if one.score > best.score || one.score == best.score && is_shorter {
                search.accepted.push((one.text.clone(), one.score));
                best = one.clone();
            }
            living.push(one);
        }
        // The oldest go first, however good they are.
        living.drain(..living.len().saturating_sub(rule.offspring.max(1)));
        living.sort_by(|a, b| b.score.total_cmp(&a.score));
        living.truncate(rule.population.max(1));
    }
    search.prompt = best.text;
    Ok(search)
}

impl Alive {
    fn length(&self) -> usize {
        self.has.iter().filter(|&&has| has).count()
    }
}

fn mean_length(living: &[Alive]) -> f64 {
    living.iter().map(Alive::length).sum::<usize>() as f64 / living.len().max(1) as f64
}

/// What an offspring has of the best of some of the living; none where it has too little to lose.
fn offspring(living: &[Alive], free: &[usize], random: &mut ChaCha8Rng) -> Option<Vec<bool>> {
    let count = ((living.len() as f64 * TOURNAMENT) as usize).max(1);
    let mut parent = living.get(below(random, living.len()))?;
    for _ in 1..count {
        let other = &living[below(random, living.len())];
        if other.score > parent.score {
            parent = other;
        }
    }
    let mut has = parent.has.clone();
    let mut left: Vec<usize> = free.iter().copied().filter(|&index| has[index]).collect();
    let pruned = (0..TRIES).map(|_| 1 + below(random, MOST_PRUNED)).find(|&pruned| pruned < left.len())?;
    for _ in 0..pruned {
        let index = left.swap_remove(below(random, left.len()));
        has[index] = false;
    }
    Some(has)
}

/// A number below `limit`, each about as likely.
fn below(random: &mut ChaCha8Rng, limit: usize) -> usize {
    ((u128::from(random.next_u64()) * limit as u128) >> 64) as usize
}

/// One number for each prompt.
fn scores(score: &mut ScoreAll<'_>, prompts: &[String]) -> Result<Vec<f64>, CompressError> {
    let found = score(prompts)?;
    match found.iter().find(|score| !score.is_finite()) {
        Some(&given) => Err(CompressError::Score { given }),
        None if found.len() == prompts.len() => Ok(found),
        None => Err(CompressError::Score { given: f64::NAN }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words, with the space before them.
    fn words(text: &str) -> Vec<std::ops::Range<usize>> {
        let mut starts: Vec<usize> = text.match_indices(' ').map(|(at, _)| at).filter(|&at| at > 0).collect();
        starts.insert(0, 0);
        let ends = starts.iter().skip(1).copied().chain([text.len()]).collect::<Vec<_>>();
        starts.into_iter().zip(ends).map(|(start, end)| start..end).collect()
    }

    fn evolve(rule: &Evolution) -> (Search, usize) {
        // Ballast hurts, three words help.
        let prompt = "say x1 x2 in x3 x4 one x5 x6 x7 word x8 x9 {text} x10 x11 x12";
        let mut batches = 0;
        let mut score = |prompts: &[String]| {
            batches += 1;
            let one = |prompt: &String| {
                assert!(prompt.contains("{text}"), "{prompt}");
                let count = |word: &str| prompt.split(' ').filter(|own| *own == word).count() as f64;
                let ballast = prompt.split(' ').filter(|own| own.starts_with('x')).count() as f64;
                1.0 + count("say") + count("one") + count("word") - 0.05 * ballast
            };
            Ok(prompts.iter().map(one).collect())
        };
        let search = promptquine(prompt, rule, &mut |text| Ok(words(text)), &mut score).unwrap();
        (search, batches)
    }

    #[test]
    fn what_helps_survives_and_ballast_goes() {
        let rule = Evolution { least: 3, prompts: 2000, ..Evolution::default() };
        let (search, batches) = evolve(&rule);
        let (first, last) = (search.accepted[0].1, search.accepted[search.accepted.len() - 1].1);
        assert!(last > first + 0.4, "{search:?}");
        assert!(["say", "one", "word"].iter().all(|word| search.prompt.contains(word)), "{}", search.prompt);
        assert!(search.accepted.is_sorted_by(|a, b| a.1 <= b.1));
        assert!(batches > 2 && search.evaluations <= 2000 + 50, "generations are scored together");
        assert_eq!(search, evolve(&rule).0, "a search is a function of its seed");
        assert_ne!(search.accepted, evolve(&Evolution { seed: 1, ..rule }).0.accepted);
    }

    #[test]
    fn short_prompts_and_placeholders_stay_as_they_are() {
        for prompt in ["", "{text}", "a"] {
            let mut score = |prompts: &[String]| Ok(vec![1.0; prompts.len()]);
            let rule = Evolution { least: 0, ..Evolution::default() };
            let search = promptquine(prompt, &rule, &mut |text| Ok(words(text)), &mut score).unwrap();
            assert_eq!((search.prompt.as_str(), search.evaluations), (prompt, 1));
        }
        let mut score = |_: &[String]| Ok(vec![f64::NAN]);
        let found = promptquine("a b", &Evolution::default(), &mut |text| Ok(words(text)), &mut score);
        assert!(matches!(found, Err(CompressError::Score { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_left_is_a_subsequence(seed in any::<u64>(), count in 0_usize..30) {
            let prompt = (0..count).map(|at| format!("w{at}")).collect::<Vec<_>>().join(" ");
            let mut score = |prompts: &[String]| Ok(prompts.iter().map(|prompt| 100.0 - prompt.len() as f64).collect());
            let rule = Evolution { seed, prompts: 200, least: 2, ..Evolution::default() };
            let search = promptquine(&prompt, &rule, &mut |text| Ok(words(text)), &mut score).unwrap();
            let mut rest = prompt.chars();
            prop_assert!(search.prompt.chars().all(|own| rest.any(|other| other == own)));
            prop_assert!(count < 4 || search.prompt.len() < prompt.len());
        }
    }
}
