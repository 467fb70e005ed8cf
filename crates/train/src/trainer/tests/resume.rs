use std::fs;

use proptest::prelude::*;

use super::{BIRTH, Workshop, begin, read};
use crate::TrainError;
use crate::checkpoint::RunDirectory;
use crate::metrics::{Quiet, Report, Stepped};
use crate::signals::Stop;
use crate::trainer::Finish;

/// The keys that make each kind of run.
const KINDS: [&[&str]; 5] = [
    &[],
    &BIRTH,
    &["gates.rule=soft", "gates.per=layer", "gates.scale=none", "sparsity.target_keep=0.5"],
    &["gates.rule=soft", "sparsity={gamma: 0.3}", "checkpoint.activations=true"],
    &["method=window", "gates=", "sparsity=", "window={sinks: 1, recent: 9}"],
];

/// Asks to stop after a step.
struct StopAfter {
    step: u64,
    stop: Stop,
}

impl Report for StopAfter {
    fn stepped(&mut self, stepped: &Stepped) {
        if stepped.step == self.step {
            self.stop.ask();
        }
    }
}

/// Everything that a state holds, as bytes.
fn state(workshop: &Workshop, output: &str, step: u64) -> Vec<Vec<u8>> {
    let folder = workshop.path(output).join(format!("step-{step:06}"));
    ["model.safetensors", "optimizer.safetensors", "trainer.safetensors"]
        .iter()
        .map(|name| read(&folder.join(name)))
        .collect()
}

/// The result without its card, which names the run.
fn result(workshop: &Workshop, output: &str) -> Vec<Vec<u8>> {
    let run = workshop.path(output);
    let folder =
        ["model", "adapter"].map(|name| run.join(name)).into_iter().find(|path| path.exists()).unwrap();
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names.iter().filter(|path| !path.ends_with("README.md")).map(|path| read(path)).collect()
}

/// The numbers of a log that do not depend on the clock.
fn log(workshop: &Workshop, output: &str) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(workshop.path(output).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .map(|mut line| {
            line.as_object_mut().unwrap().remove("tokens_per_second");
            line
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn a_run_that_was_stopped_anywhere_ends_with_the_same_bits(kind in 0..KINDS.len(), at in 1..12_u64) {
        stopping_does_not_show(&Workshop::new(), KINDS[kind], at);
    }
}

#[test]
fn a_run_with_a_teacher_goes_on_with_the_same_bits() {
    let workshop = Workshop::new();
    let model = workshop.base();
    stopping_does_not_show(&workshop, &[&model, "init=", "tokenizer=", "distill=0.5"], 7);
}

#[test]
fn a_run_beside_a_held_model_goes_on_with_the_same_bits() {
    for train in [&["train=lora"][..], &["train=gates"], &["train=lora", BIRTH[0], BIRTH[1]]] {
        let workshop = Workshop::new();
        let model = workshop.base();
        let changes = [&[&*model, "init=", "tokenizer=", "distill=0.5"], train].concat();
        stopping_does_not_show(&workshop, &changes, 5);
    }
}

fn stopping_does_not_show(workshop: &Workshop, changes: &[&str], at: u64) {
    let config = workshop.config("whole", changes);
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();

    let config = workshop.config("parts", changes);
    let stop = Stop::new();
    let finish = begin(&config, "test", &mut StopAfter { step: at, stop: stop.clone() }, &stop).unwrap();
    assert_eq!(finish, Finish::Stopped { step: at });
    // On another number of threads, which must not show either.
    let config = workshop.config("parts", &[changes, &["threads=1"]].concat());
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    assert!(state(workshop, "whole", 12) == state(workshop, "parts", 12), "{changes:?} at {at}");
    assert!(result(workshop, "whole") == result(workshop, "parts"), "{changes:?} at {at}");
    assert_eq!(log(workshop, "whole"), log(workshop, "parts"));
}

#[test]
fn a_finished_run_is_finished_again_without_a_step() {
    let workshop = Workshop::new();
    let config = workshop.config("run", &["steps=4"]);
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    let before = result(&workshop, "run");
    fs::remove_dir_all(workshop.path("run/model")).unwrap();
    struct NoStep;
    impl Report for NoStep {
        fn stepped(&mut self, _: &Stepped) {
            panic!("a finished run has no step left");
        }
    }
    begin(&config, "test", &mut NoStep, &Stop::new()).unwrap();
    assert!(result(&workshop, "run") == before);
}

#[test]
fn another_configuration_is_refused_key_by_key() {
    let workshop = Workshop::new();
    let config = workshop.config("run", &["steps=2"]);
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    let config = workshop.config("run", &["steps=2", "seed=6", "optimizer.clip=2"]);
    let error = begin(&config, "test", &mut Quiet, &Stop::new()).unwrap_err();
    assert!(matches!(error, TrainError::AnotherRun { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("seed") && message.contains("optimizer.clip"), "{message}");
}

#[test]
fn another_model_under_the_same_name_is_refused_field_by_field() {
    let workshop = Workshop::new();
    let dense = |output: &str, seed: &str| {
        let config = workshop.config(output, &["steps=1", "method=none", "gates=", "sparsity=", seed]);
        begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    };
    dense("base", "seed=1");
    let model = format!("model={}", workshop.path("base/model").display());
    let config = workshop.config("run", &[&model, "init=", "tokenizer=", "steps=2"]);
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    dense("other", "seed=2");
    fs::remove_dir_all(workshop.path("base/model")).unwrap();
    fs::rename(workshop.path("other/model"), workshop.path("base/model")).unwrap();
    let error = begin(&config, "test", &mut Quiet, &Stop::new()).unwrap_err();
    assert!(matches!(error, TrainError::AnotherRun { .. }), "{error}");
    assert!(error.to_string().contains("digest of the weights: expected"), "{error}");
}

#[test]
fn a_second_process_in_the_same_directory_is_refused() {
    let workshop = Workshop::new();
    let config = workshop.config("run", &[]);
    let _held = RunDirectory::open(&config.output).unwrap();
    let error = begin(&config, "test", &mut Quiet, &Stop::new()).unwrap_err();
    assert!(matches!(error, TrainError::Locked { .. }), "{error}");
}
