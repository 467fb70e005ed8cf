//! Examples that are chosen batch by batch, and once.

use std::fs;

use dropcap_kernels::cross_entropy::IGNORE;

use super::{Workshop, begin, read};
use crate::TrainError;
use crate::disk::LocalDisk;
use crate::metrics::{Quiet, Scores};
use crate::signals::Stop;
use crate::trainer::{Source, score};

const CHOOSE: &str = "data.select=q_tuning(sample=0.25, token=0.5)";

#[test]
fn a_step_learns_from_the_share_that_is_asked_for_and_from_answers_alone() {
    let workshop = Workshop::new();
    let mut trainer = workshop.trainer(&workshop.answering("run", &[CHOOSE]));
    for step in 0..3 {
        let batch = trainer.batches.batch(step);
        let (packed, account) = trainer.chosen(batch.clone()).unwrap();
        let account = account.unwrap()[0];
        let kept = account.kept();
        assert_eq!(account.examples, batch.examples.len() as u64);
        assert!(kept >= account.examples / 4 && kept < account.examples, "{account:?}");
        assert_eq!(packed.examples.len() as u64, kept);
        assert!(packed.sequences <= batch.sequences && packed.sequences.is_multiple_of(2));
        // What is learned was to be learned, of the same text.
        let learned = packed.targets.iter().filter(|&&target| target != IGNORE).count() as u64;
        assert!(learned == account.learned && learned > 0);
        for rows in &packed.examples {
            let ids = &packed.ids[rows.clone()];
            let whole = batch.examples.iter().find(|whole| batch.ids[(*whole).clone()] == *ids).unwrap();
            let pairs = packed.targets[rows.clone()].iter().zip(&batch.targets[whole.clone()]);
            assert!(pairs.into_iter().all(|(&own, &asked)| own == IGNORE || own == asked));
        }
    }
}

#[test]
fn a_choice_is_a_function_of_the_parameters_and_the_step() {
    let workshop = Workshop::new();
    let config = workshop.answering("run", &[CHOOSE]);
    let choose = |threads: &str| {
        let mut trainer = workshop.trainer(&workshop.answering("run", &[CHOOSE, threads]));
        let batch = trainer.batches.batch(7);
        trainer.chosen(batch).unwrap()
    };
    assert_eq!(choose("threads=1"), choose("threads=2"));
    let mut trainer = workshop.trainer(&config);
    let before = super::values(&mut trainer);
    let batch = trainer.batches.batch(7);
    trainer.chosen(batch).unwrap();
    assert_eq!(super::values(&mut trainer), before, "looking changes nothing");
}

#[test]
fn a_stopped_run_that_chooses_ends_with_the_same_bits_and_the_same_account() {
    let workshop = Workshop::new();
    let changes = [CHOOSE, "steps=6", "checkpoint={every: 2}", "evaluate={every: 3, windows: 2}"];
    begin(&workshop.answering("whole", &changes), "test", &mut Quiet, &Stop::new()).unwrap();
    let config = workshop.answering("parts", &changes);
    let stop = Stop::new();
    stop.ask();
    begin(&config, "test", &mut Quiet, &stop).unwrap();
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    let weights = |name: &str| read(&workshop.path(name).join("model/model.safetensors"));
    assert!(weights("whole") == weights("parts"));
    let account = |name: &str| {
        let card = fs::read_to_string(workshop.path(name).join("model/README.md")).unwrap();
        card.lines().find(|line| line.contains("q_tuning looked at")).unwrap().to_owned()
    };
    assert_eq!(account("whole"), account("parts"));
    let metrics = fs::read_to_string(workshop.path("whole/metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"examples_learned\":") && metrics.contains("\"choosing_seconds\":"));
}

#[test]
fn gates_learn_from_chosen_examples_too() {
    let workshop = Workshop::new();
    let mut config = workshop.config("run", &["steps=3"]);
    let answering = workshop.answering("run", &[CHOOSE]);
    config.data = answering.data;
    let mut trainer = workshop.trainer(&config);
    for _ in 0..3 {
        let outcome = trainer.step().unwrap();
        assert!(!outcome.skipped && outcome.chosen.is_some() && outcome.loss.targets > 0, "{outcome:?}");
    }
}

#[test]
fn a_subset_is_chosen_once_and_texts_have_none() {
    let workshop = Workshop::new();
    let config = workshop.answering("run", &["data.select=random(share=0.1)"]);
    let source = Source::open(&config).unwrap();
    let texts = source.texts(&config, true, &mut |_| ()).unwrap();
    assert_eq!(texts.train.learned().unwrap().examples, 40);
    assert!(texts.subset.unwrap().contains("learns from 40 of 400 examples (10.00 %)"));
    assert_eq!(texts.valid[0].learned().unwrap().examples, 60, "held-out data stays whole");
    for select in [CHOOSE, "data.select=random(share=0.1)"] {
        let config = workshop.config("run", &[select]);
        let error = Source::open(&config).unwrap().texts(&config, true, &mut |_| ()).unwrap_err();
        assert!(
            matches!(error, TrainError::Config { .. }) && error.to_string().contains("text.txt holds texts")
        );
    }
}

#[test]
fn scores_are_gradients_of_single_examples_and_a_coreset_is_drawn_by_them() {
    let workshop = Workshop::new();
    let config = workshop.answering("run", &[]);
    // Few examples, so that the mean gradient is quickly there.
    let lines = fs::read_to_string(workshop.path("pairs.jsonl")).unwrap();
    let few: Vec<&str> = lines.lines().take(12).collect();
    fs::write(workshop.path("pairs.jsonl"), few.join("\n")).unwrap();
    let open = || Source::open(&config).unwrap();
    let (mut done, path) = (Vec::new(), workshop.path("scores.jsonl"));
    let scores = score(&config, open(), None, &mut Quiet, &mut |now, all| done.push((now, all))).unwrap();
    assert_eq!((done.len(), done[23]), (24, (24, 24)));
    // The influences' mean is the squared norm of the mean gradient, which is no larger than the mean effort.
    let mean = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len() as f64;
    assert!(mean(&scores.influence) > 0.0 && mean(&scores.influence).sqrt() <= mean(&scores.effort));
    scores.write(&LocalDisk, &path).unwrap();
    let read = Scores::read(&path).unwrap();
    let pairs = read.influence.iter().zip(&scores.influence).chain(read.effort.iter().zip(&scores.effort));
    for (read, written) in pairs {
        assert!((read - written).abs() <= 1e-14 * written.abs(), "{read} {written}");
    }
    assert_eq!((read.influence.len(), read.effort.len()), (12, 12));

    let choose = || {
        let mut config = workshop.config("run", &["method=none", "gates=", "sparsity="]);
        config.data.train = vec![workshop.path("pairs.jsonl")];
        config.data.select = "coreset(share=0.5, strata=3, hardest=0)".parse().ok();
        config.data.scores = Some(path.clone());
        Source::open(&config).unwrap().texts(&config, true, &mut |_| ())
    };
    let texts = choose().unwrap();
    assert!((4..=6).contains(&texts.train.learned().unwrap().examples), "{:?}", texts.train.learned());
    // Other examples are not chosen by these scores.
    fs::write(workshop.path("pairs.jsonl"), few[..11].join("\n")).unwrap();
    let error = choose().unwrap_err().to_string();
    assert!(error.contains("scores.jsonl") && error.contains("pairs.jsonl has changed since"), "{error}");
    let whole = fs::read_to_string(&path).unwrap();
    for (text, words) in [
        (whole.lines().take(5).collect::<Vec<_>>().join("\n"), "the file is cut off"),
        (whole.replace("\"version\":1", "\"version\":9"), "format version 9"),
        (whole.replacen("\"example\":3", "\"example\":4", 1), "line 5"),
        ("{}".to_owned(), "dropcap data score"),
    ] {
        fs::write(&path, text).unwrap();
        let error = Scores::read(&path).unwrap_err().to_string();
        assert!(error.contains("scores.jsonl") && error.contains(words), "{error}");
    }
}
