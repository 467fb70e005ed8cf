//! A prompt that is pruned against questions with known answers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use dropcap_compress::{Answers, CompressError, Example, Judge, Search, answers, tapruning};
use dropcap_train::data::Lines;
use serde_json::{Value, json};

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

    /// Prunes `prompt`; `tell` hears how many prompts were scored and how many tokens are left.
    pub fn prune(
        &self,
        judge: &mut dyn Judge,
        prompt: &str,
        threshold: f64,
        mut tell: impl FnMut(usize, usize),
    ) -> Result<Pruned> {
        let ask = |judge: &mut dyn Judge, prompt: &str| answers(judge, prompt, &self.examples, &self.labels);
        let before = ask(judge, prompt)?;
        let judge = std::cell::RefCell::new(judge);
        let cut =
            |prompt: &str| Ok(judge.borrow().tokens(prompt)?.into_iter().map(|(_, range)| range).collect());
        let mut scored = 0;
        let mut score = |prompt: &str| -> Result<f64, CompressError> {
            scored += 1;
            tell(scored, judge.borrow().tokens(prompt)?.len());
            Ok(ask(&mut **judge.borrow_mut(), prompt)?.probability)
        };
        let search = tapruning(prompt, threshold, &mut { cut }, &mut score)?;
        let after = ask(&mut **judge.borrow_mut(), &search.prompt)?;
        Ok(Pruned { search, before, after })
    }
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
