//! Examples whose answers alone are learned.

use std::fmt::Write as _;
use std::fs;

use dropcap_kernels::cross_entropy::IGNORE;

use super::{Warnings, Workshop, begin};
use crate::config::Config;
use crate::metrics::Quiet;
use crate::signals::Stop;
use crate::trainer::{Finish, Source, examine};

/// What nobody can guess, and what always follows it.
const ANSWER: &str = " the cat slept and then ran on";

impl Workshop {
    /// A run on prompts of random words with an answer that is always the same.
    pub(super) fn answering(&self, output: &str, changes: &[&str]) -> Config {
        let words = ["mat", "road", "dog", "sat", "a", "then", "on", "cat"];
        let mut state = 11_u32;
        for (name, lines) in [("pairs.jsonl", 400), ("held.jsonl", 60)] {
            let mut text = String::new();
            for _ in 0..lines {
                let mut prompt = String::new();
                for _ in 0..5 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let _ = write!(prompt, " {}", words[(state >> 16) as usize % words.len()]);
                }
                let _ = writeln!(text, "{{\"prompt\": \"{prompt} :\", \"completion\": \"{ANSWER}\"}}");
            }
            fs::write(self.path(name), text).unwrap();
        }
        let data = [
            format!("data.train=[{}]", self.path("pairs.jsonl").display()),
            format!("data.valid=[{}]", self.path("held.jsonl").display()),
        ];
        let mut all = vec!["method=none", "gates=", "sparsity=", "steps=150"];
        all.extend(data.iter().map(String::as_str));
        all.extend(changes);
        self.config(output, &all)
    }
}

#[test]
fn answers_are_learned_and_prompts_are_context() {
    let workshop = Workshop::new();
    let config = workshop.answering("run", &["optimizer.learning_rate=5e-3"]);
    let Finish::Done { folder, evaluation } = begin(&config, "test", &mut Quiet, &Stop::new()).unwrap()
    else {
        panic!("the run was stopped")
    };
    // Eight words as likely as each other have a perplexity of eight a word; the answer has none.
    let (perplexity, _) = evaluation.perplexities();
    assert!(perplexity < 2.0, "{perplexity}");
    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card.contains("- 400 examples of ") && card.contains("the loss counts the "), "{card}");
    let metrics = fs::read_to_string(workshop.path("run/metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"targets\":"), "{metrics}");
}

#[test]
fn the_loss_of_a_batch_is_the_mean_over_its_answers() {
    let workshop = Workshop::new();
    let config = workshop.answering("run", &[]);
    let mut trainer = workshop.trainer(&config);
    let batch = trainer.batches.batch(0);
    let mut context = batch.clone();
    for (target, &id) in context.targets.iter_mut().zip(batch.ids.iter().skip(1)) {
        *target = if *target == IGNORE { id } else { IGNORE };
    }
    let dense = crate::network::Pruning::Dense;
    let mut loss = |batch: &crate::data::Batch| {
        let mut sum = crate::network::Loss::default();
        for (ids, targets) in batch.ids.chunks(batch.tokens).zip(batch.targets.chunks(batch.tokens)) {
            sum.add(trainer.backend.evaluate(ids, targets, &dense).unwrap().loss);
        }
        sum
    };
    let (answers, context) = (loss(&batch), loss(&context));
    let wanted = batch.targets.iter().filter(|&&target| target != IGNORE).count();
    assert!(wanted > 0 && answers.targets == wanted && context.targets > 0);
    let outcome = trainer.step_on(&batch).unwrap();
    assert!((outcome.loss.mean() - answers.mean()).abs() < 1e-5, "{:?} {answers:?}", outcome.loss);
}

#[test]
fn a_stopped_run_on_answers_ends_with_the_same_bits() {
    let workshop = Workshop::new();
    let changes = ["steps=6", "checkpoint={every: 2}", "evaluate={every: 3, windows: 2}"];
    begin(&workshop.answering("whole", &changes), "test", &mut Quiet, &Stop::new()).unwrap();
    let config = workshop.answering("parts", &changes);
    let stop = Stop::new();
    stop.ask();
    begin(&config, "test", &mut Quiet, &stop).unwrap();
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    let weights = |name: &str| super::read(&workshop.path(name).join("model/model.safetensors"));
    assert!(weights("whole") == weights("parts"));
}

#[test]
fn a_dry_run_says_what_is_learned_and_what_a_window_cannot_show() {
    let workshop = Workshop::new();
    let config = workshop.answering("run", &[]);
    let mut lines = fs::read_to_string(workshop.path("pairs.jsonl")).unwrap();
    let long = "mat ".repeat(200);
    let _ = writeln!(lines, "{{\"prompt\": \"{long}\", \"completion\": \"{ANSWER}\"}}");
    fs::write(workshop.path("pairs.jsonl"), lines).unwrap();
    let source = Source::open(&config).unwrap();
    let mut warnings = Warnings::default();
    examine(&config, &source, None, &mut warnings).unwrap();
    assert!(
        warnings
            .0
            .iter()
            .any(|line| line.contains("training data: 401 examples") && line.contains("1 of them all")),
        "{:?}",
        warnings.0
    );
    fs::write(workshop.path("pairs.jsonl"), "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": 3}\n")
        .unwrap();
    let error = examine(&config, &source, None, &mut Quiet).unwrap_err().to_string();
    assert!(error.contains("pairs.jsonl line 2: has no `text`"), "{error}");
}
