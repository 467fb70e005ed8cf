//! From records to the numbers that are printed.

use std::collections::HashMap;

use dropcap_scores::{Choice, Proportion, Sample, likeliest, likeliest_per_character};
use serde::Serialize;

use crate::record::{Answers, Likelihood, Memory, Outcome, Record, Window};

mod text;

/// One task under one method.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The task.
    pub task: String,
    /// The method's spec.
    pub method: String,
    /// Examples that were measured.
    pub examples: usize,
    /// Examples that were left out, none of which counts in any number.
    pub left_out: LeftOut,
    /// The share of entries kept: of texts in the later half of each window, of other tasks at the end of each prompt.
    pub keep: f64,
    /// Bytes of the pages held at the end, the mean of the examples.
    pub held_bytes: f64,
    /// Bytes of the keys and values without pruning, the mean of the examples.
    pub dense_bytes: f64,
    /// What was measured, the most telling first.
    pub measures: Vec<Measure>,
    /// Keep ratio of each lane of each layer; empty where it was not measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep_by_lane: Vec<Vec<f64>>,
}

/// Numbers of the examples that could not be measured, by reason.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LeftOut {
    /// Those that do not fit into the model.
    pub too_long: Vec<usize>,
    /// Those with a continuation that has no token of its own.
    pub no_token: Vec<usize>,
}

impl LeftOut {
    fn of(records: &[&Record]) -> Self {
        let mut left_out = Self::default();
        for record in records {
            match record.outcome {
                Outcome::TooLong { .. } => left_out.too_long.push(record.example),
                Outcome::NoToken { .. } => left_out.no_token.push(record.example),
                Outcome::Window(_) | Outcome::Likelihood(_) | Outcome::Answers(_) => {}
            }
        }
        left_out
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.too_long.len() + self.no_token.len()
    }
}

/// One number.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Measure {
    /// What it is.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// What holds the true share in 95 % of all samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// The mean difference to the dense run on the same examples, and its standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_dense: Option<(f64, f64)>,
}

impl Measure {
    fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value, ..Self::default() }
    }
}

/// The numbers of every task and method, in the order of `tasks` and `methods`; the first method is the dense run.
#[must_use]
pub fn summarize(records: &[Record], tasks: &[&str], methods: &[&str]) -> Vec<Line> {
    let mut grouped: HashMap<(&str, &str), Vec<&Record>> = HashMap::new();
    for record in records {
        grouped.entry((&record.task, &record.method)).or_default().push(record);
    }
    grouped.values_mut().for_each(|group| group.sort_by_key(|record| record.example));
    let of = |task, method| grouped.get(&(task, method)).map(Vec::as_slice).unwrap_or_default();
    let mut lines = Vec::new();
    for &task in tasks {
        for (index, &method) in methods.iter().enumerate() {
            let dense =
                if index == 0 { &[] } else { methods.first().map_or(&[][..], |dense| of(task, dense)) };
            let own = of(task, method);
            if !own.is_empty() {
                lines.push(line(task, method, own, dense));
            }
        }
    }
    lines
}

fn line(task: &str, method: &str, own: &[&Record], dense: &[&Record]) -> Line {
    let windows: Vec<&Window> = own.iter().filter_map(|record| window(record)).collect();
    let memories: Vec<Memory> = own.iter().filter_map(|record| memory(&record.outcome)).collect();
    let mean = |of: fn(&Memory) -> f64| Sample::of(memories.iter().map(of)).mean;
    Line {
        task: task.to_owned(),
        method: method.to_owned(),
        examples: memories.len(),
        left_out: LeftOut::of(own),
        keep: mean(|memory| memory.keep),
        held_bytes: mean(|memory| memory.held_bytes as f64),
        dense_bytes: mean(|memory| memory.dense_bytes as f64),
        measures: measures(own, dense),
        keep_by_lane: text::keep_by_lane(&windows),
    }
}

fn measures(own: &[&Record], dense: &[&Record]) -> Vec<Measure> {
    let first = own.iter().find(|record| memory(&record.outcome).is_some());
    match first.map(|record| &record.outcome) {
        Some(Outcome::Window(_)) => text::measures(&paired(own, dense, window)),
        Some(Outcome::Likelihood(example)) if example.log_likelihood.len() == 1 => {
            guessed(&paired(own, dense, likelihood))
        }
        Some(Outcome::Likelihood(_)) => chosen(&paired(own, dense, likelihood)),
        Some(Outcome::Answers(_)) => answered(&paired(own, dense, answers)),
        Some(Outcome::TooLong { .. } | Outcome::NoToken { .. }) | None => Vec::new(),
    }
}

/// Each example with the dense run's, where there is one.
type Pairs<'a, T> = Vec<(&'a T, Option<&'a T>)>;

fn paired<'a, T>(
    own: &[&'a Record],
    dense: &[&'a Record],
    of: fn(&'a Record) -> Option<&'a T>,
) -> Pairs<'a, T> {
    let dense: HashMap<usize, &T> =
        dense.iter().filter_map(|record| Some((record.example, of(record)?))).collect();
    own.iter().filter_map(|record| Some((of(record)?, dense.get(&record.example).copied()))).collect()
}

/// The mean difference to the dense run of a number of each example.
fn to_dense<T>(pairs: &Pairs<'_, T>, of: impl Fn(&T) -> f64) -> Option<(f64, f64)> {
    let differences: Vec<f64> =
        pairs.iter().filter_map(|(own, dense)| Some(of(own) - of((*dense)?))).collect();
    let sample = Sample::of(differences.iter().copied());
    (!differences.is_empty()).then_some((sample.mean, sample.standard_error))
}

/// How often something is so.
fn share<T>(name: &str, pairs: &Pairs<'_, T>, is_so: impl Fn(&T) -> bool) -> Measure {
    let proportion = Proportion::count(pairs.iter().map(|(own, _)| is_so(own)));
    Measure {
        error: Some(proportion.standard_error()),
        interval: Some(proportion.interval()),
        to_dense: to_dense(pairs, |example| f64::from(u8::from(is_so(example)))),
        ..Measure::new(name, proportion.share())
    }
}

fn chosen(pairs: &Pairs<'_, Likelihood>) -> Vec<Measure> {
    let choices = |example: &Likelihood| -> Vec<Choice> {
        let choice = |(&log_likelihood, &characters)| Choice { log_likelihood, characters };
        example.log_likelihood.iter().zip(&example.characters).map(choice).collect()
    };
    let mut measures =
        vec![share("acc", pairs, |example| likeliest(&choices(example)) == Some(example.gold))];
    // Where all choices are equally long, as where contexts are the choices, it would say the same again.
    let differ = |example: &Likelihood| example.characters.windows(2).any(|pair| pair[0] != pair[1]);
    if pairs.iter().any(|(example, _)| differ(example)) {
        let right = |example: &Likelihood| likeliest_per_character(&choices(example)) == Some(example.gold);
        measures.push(share("acc_norm", pairs, right));
    }
    measures
}

fn guessed(pairs: &Pairs<'_, Likelihood>) -> Vec<Measure> {
    let nats = |example: &Likelihood| -example.log_likelihood.iter().sum::<f64>();
    let sample = Sample::of(pairs.iter().map(|(own, _)| nats(own)));
    let perplexity = sample.mean.exp();
    vec![
        share("acc", pairs, |example| example.greedy.iter().all(|&greedy| greedy)),
        Measure { error: Some(perplexity * sample.standard_error), ..Measure::new("perplexity", perplexity) },
    ]
}

fn answered(pairs: &Pairs<'_, Answers>) -> Vec<Measure> {
    let turns = pairs.iter().map(|(own, _)| own.turns.len()).max().unwrap_or(0);
    let mut measures = Vec::new();
    for turn in 0..turns {
        let right = |example: &Answers| example.turns.get(turn).is_some_and(crate::Answer::is_right);
        let name = if turns == 1 { "right".to_owned() } else { format!("right, question {}", turn + 1) };
        measures.push(share(&name, pairs, right));
    }
    let words = |example: &Answers| Sample::of(example.turns.iter().map(|turn| turn.share)).mean;
    let sample = Sample::of(pairs.iter().map(|(own, _)| words(own)));
    if pairs.iter().any(|(own, _)| own.turns.iter().any(|turn| turn.share > 0.0 && turn.share < 1.0)) {
        measures.push(Measure {
            error: Some(sample.standard_error),
            to_dense: to_dense(pairs, words),
            ..Measure::new("words right", sample.mean)
        });
    }
    let mut depths: Vec<f64> = pairs.iter().map(|(own, _)| own.depth).collect();
    depths.sort_by(f64::total_cmp);
    depths.dedup();
    for depth in depths.iter().filter(|_| depths.len() > 1) {
        let here: Pairs<'_, Answers> = pairs.iter().filter(|(own, _)| own.depth == *depth).copied().collect();
        let right = |example: &Answers| example.turns.iter().all(crate::Answer::is_right);
        measures.push(share(&format!("all right, depth {depth}"), &here, right));
    }
    measures
}

fn window(record: &Record) -> Option<&Window> {
    match &record.outcome {
        Outcome::Window(window) => Some(window),
        _ => None,
    }
}

fn likelihood(record: &Record) -> Option<&Likelihood> {
    match &record.outcome {
        Outcome::Likelihood(likelihood) => Some(likelihood),
        _ => None,
    }
}

fn answers(record: &Record) -> Option<&Answers> {
    match &record.outcome {
        Outcome::Answers(answers) => Some(answers),
        _ => None,
    }
}

fn memory(outcome: &Outcome) -> Option<Memory> {
    match outcome {
        Outcome::Window(window) => Some(window.memory),
        Outcome::Likelihood(likelihood) => Some(likelihood.memory),
        Outcome::Answers(answers) => Some(answers.memory),
        Outcome::TooLong { .. } | Outcome::NoToken { .. } => None,
    }
}

#[cfg(test)]
mod tests;
