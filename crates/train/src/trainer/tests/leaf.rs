//! A student that learns from a teacher, with what misleads it taken out of copies of its prompts.

use std::fs;

use super::{Workshop, begin, read};
use crate::config::Config;
use crate::disk::LocalDisk;
use crate::metrics::{Confounders, Quiet};
use crate::signals::Stop;
use crate::trainer::{Finish, Source, Trainer, confounders, examine};

/// A small student and a wider teacher that has learned the answers, both in a folder, and a run of the first with the second.
struct Pair {
    workshop: Workshop,
    keys: Vec<String>,
}

impl Pair {
    fn new() -> Self {
        let workshop = Workshop::new();
        for (name, steps, width) in [("student", 2, 32), ("teacher", 60, 48)] {
            let width = format!("init.hidden={width}");
            let steps = format!("steps={steps}");
            let config = workshop.answering(name, &[&steps, &width, "optimizer.learning_rate=5e-3"]);
            begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
        }
        let path = |name: &str| workshop.path(name).join("model").display().to_string();
        let keys = vec![
            format!("model={}", path("student")),
            format!("teacher={}", path("teacher")),
            "init=".to_owned(),
            "tokenizer=".to_owned(),
            "distill=1".to_owned(),
            "steps=6".to_owned(),
            "checkpoint={every: 2}".to_owned(),
            "evaluate={every: 3, windows: 2}".to_owned(),
        ];
        Self { workshop, keys }
    }

    fn config(&self, output: &str, more: &[&str]) -> Config {
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.workshop.answering(output, &keys)
    }

    /// Few examples, compared; the keys with which a run learns from them.
    fn compared(&self) -> (Confounders, [String; 2]) {
        let config = self.config("run", &[]);
        self.shorten();
        let source = Source::open(&config).unwrap();
        let found = confounders(&config, &source, None, &mut Quiet, &mut |_, _| ()).unwrap();
        let path = self.workshop.path("confounders.jsonl");
        found.write(&LocalDisk, &path).unwrap();
        (found, ["data.select=leaf(share=0.1)".to_owned(), format!("data.scores={}", path.display())])
    }

    /// Leaves 30 examples to train on.
    fn shorten(&self) {
        let pairs = self.workshop.path("pairs.jsonl");
        let lines = fs::read_to_string(&pairs).unwrap();
        let few: Vec<&str> = lines.lines().take(30).collect();
        fs::write(pairs, few.join("\n")).unwrap();
    }

    fn trainer(&self, config: &Config) -> Trainer {
        self.shorten();
        self.workshop.trainer(config)
    }
}

#[test]
fn a_student_comes_closer_to_a_teacher_of_another_shape() {
    let pair = Pair::new();
    let mut trainer = pair.trainer(&pair.config("run", &["steps=40", "optimizer.learning_rate=5e-3"]));
    let divergence: Vec<f64> = (0..40).map(|_| trainer.step().unwrap().loss.mean_divergence()).collect();
    assert!(divergence[39] < divergence[0] / 3.0, "{divergence:?}");
}

#[test]
fn copies_without_confounders_stand_beside_their_examples() {
    let pair = Pair::new();
    let (found, [select, scores]) = pair.compared();
    assert_eq!(found.prompts.len(), 30);
    assert!(found.prompts.iter().all(|prompt| prompt.teacher_loss < prompt.student_loss));
    assert!(found.prompts.iter().all(|prompt| {
        let zeros = prompt.difference.iter().filter(|&&value| value == 0.0).count();
        let ones = prompt.difference.iter().filter(|&&value| value == 1.0).count();
        zeros >= 1 && ones >= 1
    }));
    let read = Confounders::read(&pair.workshop.path("confounders.jsonl")).unwrap();
    assert_eq!(read.prompts.len(), 30);
    let config = pair.config("run", &[&select, &scores]);
    pair.shorten();
    let source = Source::open(&config).unwrap();
    let texts = source.texts(&config, true, &mut |_| ()).unwrap();
    let sentence = texts.subset.unwrap();
    let learned = *texts.train.learned().unwrap();
    let copies = learned.examples - 30;
    assert!(copies >= 15, "{sentence}");
    assert!(sentence.contains(&format!("{copies} examples without a stretch of them")), "{sentence}");
    // Each is an example that lacks one stretch of its prompt, before the same answer.
    let shard = &texts.train.shards()[0];
    let answers = shard.answers().unwrap();
    let tokens = |number: usize| {
        let start = answers.starts[number];
        let end = answers.starts.get(number + 1).copied().unwrap_or(shard.len() as u64);
        let mut ids = Vec::new();
        shard.read(start as usize, (end - start) as usize, &mut ids);
        (ids, answers.spans[number].start - start)
    };
    let mut whole = tokens(0);
    let mut shorter = 0;
    for number in 1..answers.starts.len() {
        let (ids, prompt) = tokens(number);
        let gone = whole.0.len() - ids.len().min(whole.0.len());
        let is_copy = gone > 0
            && (0..=prompt as usize).any(|at| {
                let cut = [&whole.0[..at], &whole.0[at + gone..]].concat();
                cut == ids && whole.1 == prompt + gone as u64
            });
        if is_copy {
            shorter += 1;
        } else {
            whole = (ids, prompt);
        }
    }
    assert_eq!(shorter, copies);
}

#[test]
fn a_stopped_run_with_copies_ends_with_the_same_bits_and_says_what_it_learned_from() {
    let pair = Pair::new();
    let (_, [select, scores]) = pair.compared();
    let run = |output: &str, stop: &Stop| {
        let config = pair.config(output, &[&select, &scores]);
        pair.shorten();
        begin(&config, "test", &mut Quiet, stop).unwrap()
    };
    assert!(matches!(run("whole", &Stop::new()), Finish::Done { .. }));
    let stop = Stop::new();
    stop.ask();
    run("parts", &stop);
    run("parts", &Stop::new());
    let weights = |name: &str| read(&pair.workshop.path(name).join("model/model.safetensors"));
    assert!(weights("whole") == weights("parts"));
    let card = fs::read_to_string(pair.workshop.path("whole/model/README.md")).unwrap();
    assert!(card.contains("leaf(share=0.1) found"), "{card}");
    assert!(card.contains("100 % of the loss is the divergence from the predictions of"), "{card}");
}

#[test]
fn what_does_not_fit_is_refused_with_what_to_do() {
    let pair = Pair::new();
    let (_, [select, scores]) = pair.compared();
    // Another teacher than the one that was compared with.
    let student = format!("teacher={}", pair.workshop.path("student/model").display());
    let config = pair.config("run", &[&select, &scores, &student]);
    pair.shorten();
    let refused = |config: &Config| {
        let source = Source::open(config).unwrap();
        source.texts(config, true, &mut |_| ()).unwrap_err().to_string()
    };
    let error = refused(&config);
    assert!(error.contains("confounders.jsonl") && error.contains("the teacher is "), "{error}");
    // Other examples.
    let config = pair.config("run", &[&select, &scores]);
    let error = refused(&config);
    assert!(error.contains("pairs.jsonl has changed since"), "{error}");
    // A teacher with other words.
    let other = pair.workshop.path("other.json");
    crate::tokenizer::train_bpe(&[pair.workshop.path("held.txt")], 270, &other, &mut |_| ()).unwrap();
    let tokenizer = format!("tokenizer={}", other.display());
    let config = pair.workshop.answering("other", &["steps=1", &tokenizer]);
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    let teacher = format!("teacher={}", pair.workshop.path("other/model").display());
    let error = Source::open(&pair.config("run", &[&teacher])).unwrap_err().to_string();
    assert!(error.contains("predictions are compared token by token"), "{error}");
    // A file of something else, and one that is cut off.
    let path = pair.workshop.path("confounders.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    for (text, words) in [
        (whole.lines().take(5).collect::<Vec<_>>().join("\n"), "the file is cut off"),
        (whole.replace("\"version\":1", "\"version\":9"), "format version 9"),
        (whole.replacen("\"example\":3", "\"example\":4", 1), "line 5"),
        ("{}".to_owned(), "dropcap data confounders"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Confounders::read(&path).unwrap_err().to_string();
        assert!(error.contains("confounders.jsonl") && error.contains(words), "{error}");
    }
    // Texts have no prompts.
    let mut config = pair.config("run", &[]);
    config.data.train = vec![pair.workshop.path("text.txt")];
    let source = Source::open(&config).unwrap();
    let error = confounders(&config, &source, None, &mut Quiet, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("text.txt") && error.contains("prompts with completions alone"), "{error}");
}

#[test]
fn the_memory_of_a_teacher_is_told_beforehand() {
    let pair = Pair::new();
    let plan = |more: &[&str]| {
        let config = pair.config("run", more);
        let source = Source::open(&config).unwrap();
        examine(&config, &source, None, &mut Quiet).unwrap().plan
    };
    let (with, without) = (plan(&[]), plan(&["teacher=", "distill=0"]));
    assert!(
        with.parameter_bytes > without.parameter_bytes && with.activation_bytes > without.activation_bytes
    );
}
