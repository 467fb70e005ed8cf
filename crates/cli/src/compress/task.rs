//! A prompt that is pruned against questions with known answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use dropcap_compress::{
    Answers, CompressError, Evolution, Example, Judge, Search, answers, promptquine, tapruning,
};
use dropcap_train::data::Lines;
use serde_json::{Value, json};

use super::journal::Journal;

/// Questions with their answers, and all answers that there are.
pub struct Task {
    examples: Vec<Example>,
    labels: Vec<String>,
}

/// What a search made of a prompt.
pub struct Pruned {
    /// What it did.
    pub search: Search,
    /// How well the whole prompt answers.
    before: Answers,
    /// How well what is left of it answers.
    after: Answers,
}

impl Task {
    /// Reads JSON lines: `label` is the right answer, and every other key goes into the placeholder of its name.
    pub fn open(path: &Path, prompt: &str) -> Result<Self> {
        let mut lines = Lines::open(path)?;
        let (mut text, mut examples, mut labels) = (String::new(), Vec::new(), BTreeSet::new());
        while lines.next(&mut text)? {
            let place = format!("{} line {}", path.display(), lines.number());
            if !text.trim().is_empty() {
                let mut fields: BTreeMap<String, String> = serde_json::from_str(&text)
                    .with_context(|| format!("{place}: an object of texts is expected"))?;
                let Some(label) = fields.remove("label") else { bail!("{place}: has no `label`") };
                labels.insert(label.clone());
                examples.push(Example { fields, label });
            }
            text.clear();
        }
        let Some(first) = examples.first() else { bail!("{} holds no example", path.display()) };
        if labels.len() < 2 {
            bail!("{} has one label only: there is nothing to tell apart", path.display());
        }
        if !first.fields.keys().any(|name| prompt.contains(&format!("{{{name}}}"))) {
            let names: Vec<String> = first.fields.keys().map(|name| format!("{{{name}}}")).collect();
            bail!(
                "the prompt has none of the placeholders that {} fills: {}",
                path.display(),
                names.join(", ")
            );
        }
        Ok(Self { examples, labels: labels.into_iter().collect() })
    }

    /// Tells this task from others: its examples in one number.
    pub fn digest(&self) -> String {
        let mut text = String::new();
        for Example { fields, label } in &self.examples {
            text.push_str(&json!({ "fields": fields, "label": label }).to_string());
        }
        dropcap_train::Digest::of(text.as_bytes()).short()
    }

    /// Prunes `prompt`; `tell` hears how many prompts were scored and how many tokens the last one has. Scores that `journal` has
    /// are not asked for again.
    pub fn prune(
        &self,
        judge: &mut dyn Judge,
        prompt: &str,
        rule: &Rule,
        journal: &mut Journal,
        mut tell: impl FnMut(usize, usize),
    ) -> Result<Pruned> {
        let judge = std::cell::RefCell::new(judge);
        let cut =
            |prompt: &str| Ok(judge.borrow().tokens(prompt)?.into_iter().map(|(_, range)| range).collect());
        let (mut scored, mut failed) = (0, None);
        let mut ask = |prompts: &[String]| -> Result<Vec<Answers>, CompressError> {
            let new: Vec<String> =
                prompts.iter().filter(|prompt| journal.get(prompt).is_none()).cloned().collect();
            let found = if new.is_empty() {
                Vec::new()
            } else {
                answers(&mut **judge.borrow_mut(), &new, &self.examples, &self.labels)?
            };
            for (prompt, answers) in new.iter().zip(found) {
                if let Err(error) = journal.put(prompt, answers) {
                    failed.get_or_insert(error);
                }
            }
            scored += prompts.len();
            if let Some(last) = prompts.last() {
                tell(scored, judge.borrow().tokens(last)?.len());
            }
            Ok(prompts.iter().filter_map(|prompt| journal.get(prompt)).collect())
        };
        let mut score = |prompts: &[String]| -> Result<Vec<f64>, CompressError> {
            Ok(ask(prompts)?.iter().map(|answers| answers.probability).collect::<Vec<f64>>())
        };
        let search = match rule {
            Rule::Tapruning { threshold } => {
                let mut one = |prompt: &str| -> Result<f64, CompressError> {
                    Ok(score(&[prompt.to_owned()])?.first().copied().unwrap_or_default())
                };
                tapruning(prompt, *threshold, &mut { cut }, &mut one)?
            }
            Rule::Promptquine(evolution) => promptquine(prompt, evolution, &mut { cut }, &mut score)?,
        };
        let mut both = ask(&[prompt.to_owned(), search.prompt.clone()])?.into_iter();
        if let Some(error) = failed {
            return Err(error);
        }
        let (Some(before), Some(after)) = (both.next(), both.next()) else {
            bail!("the model gave no answer")
        };
        Ok(Pruned { search, before, after })
    }
}

/// What prunes a prompt.
pub enum Rule {
    /// Token by token.
    Tapruning {
        /// Share of the best score that is enough.
        threshold: f64,
    },
    /// Generation by generation.
    Promptquine(Evolution),
}

impl Pruned {
    /// For machines: scores and accuracies, and every prompt that was accepted on the way.
    pub fn json(&self) -> Value {
        let steps =
            self.search.accepted.iter().map(|(prompt, score)| json!({ "prompt": prompt, "score": score }));
        let answers = |of: &Answers| json!({ "probability": of.probability, "accuracy": of.accuracy });
        json!({
            "before": answers(&self.before),
            "after": answers(&self.after),
            "evaluations": self.search.evaluations,
            "accepted": steps.collect::<Vec<Value>>(),
        })
    }

    /// For people.
    pub fn line(&self) -> String {
        format!(
            "accuracy {:.3} -> {:.3}, probability of the right label {:.3} -> {:.3}, {} prompts tried",
            self.before.accuracy,
            self.after.accuracy,
            self.before.probability,
            self.after.probability,
            self.search.evaluations
        )
    }
}
