use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dropcap_kernels::DType;
use dropcap_methods::GATES_FILE;
use dropcap_model::{Adapter, Checkpoint};

use super::result::{TOLERANCE, infer_with};
use super::{BIRTH, Workshop, begin, values};
use crate::config::Config;
use crate::metrics::Quiet;
use crate::signals::Stop;
use crate::trainer::{Evaluation, Finish};

/// A run that forgets from the beginning, with what it holds and trains.
fn config(workshop: &Workshop, base: &str, changes: &[&str]) -> Config {
    let common = [base, "init=", "tokenizer=", "sparsity.ramp={from: 0.0, until: 0.1}", "optimizer.warmup=0"];
    workshop.config("run", &[&common[..], changes].concat())
}

/// Every file of a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.file_name().unwrap().into(), fs::read(&path).unwrap())).collect()
}

fn names(folder: &Path) -> Vec<String> {
    files(folder).keys().map(|path| path.display().to_string()).collect()
}

fn ran(config: &Config) -> (PathBuf, Evaluation) {
    match begin(config, "test", &mut Quiet, &Stop::new()).unwrap() {
        Finish::Done { folder, evaluation } => (folder, evaluation),
        Finish::Stopped { step } => panic!("nobody asked it to stop at {step}"),
    }
}

/// Inference with the result over its base loses and keeps what the trainer measured.
fn inference_agrees(workshop: &Workshop, config: &Config, base: Checkpoint) {
    let (folder, evaluation) = ran(config);
    let checkpoint = match Adapter::is_in(&folder) {
        true => base.with_adapter(Adapter::open(&folder).unwrap()).unwrap(),
        false => base,
    };
    let windows = workshop.trainer(config).valid[0].evaluation_windows(config.evaluate.windows);
    let texts: Vec<_> =
        windows.ids.chunks(windows.tokens).zip(windows.targets.chunks(windows.tokens)).collect();
    let inferred = infer_with(&checkpoint, &folder, DType::F32, &texts);
    let measured = &evaluation.files[0];
    assert!((inferred.loss - measured.pruned.mean()).abs() < TOLERANCE);
    for (found, measured) in inferred.keep.iter().zip(&measured.keep) {
        assert!((found - measured).abs() < 1e-9 && *found < 0.95, "{:?}", inferred.keep);
    }
}

#[test]
fn an_adapter_is_small_runs_over_its_base_as_measured_and_leaves_the_base_as_it_was() {
    let workshop = Workshop::new();
    let base = workshop.base();
    let folder = workshop.path("base/model");
    let before = files(&folder);
    let lora = ["adapter_config.json", "adapter_model.safetensors"];
    let birth = [&["train=lora"], &BIRTH[..]].concat();
    let cases: [(&[&str], _); 3] =
        [(&["train=gates"], &lora[..0]), (&["train=lora"], &lora[..]), (&birth, &lora[..])];
    for (train, factors) in cases {
        let config = config(&workshop, &base, &[&["steps=30"], train].concat());
        inference_agrees(&workshop, &config, Checkpoint::open(&folder).unwrap());
        assert!(files(&folder) == before, "{train:?}");
        let mut expected = vec!["README.md"];
        expected.extend(factors);
        expected.push(GATES_FILE);
        assert_eq!(names(&config.output.join("adapter")), expected);
        let card = fs::read_to_string(config.output.join("adapter/README.md")).unwrap();
        assert!(card.contains("generate --model model --adapter DIR --method dcp"), "{card}");
        fs::remove_dir_all(&config.output).unwrap();
    }
}

#[test]
fn what_is_held_has_no_moments_and_no_place_in_a_state() {
    let workshop = Workshop::new();
    let base = workshop.base();
    for train in ["train=gates", "train=lora"] {
        let mut trainer = workshop.trainer(&config(&workshop, &base, &[train]));
        let before = values(&mut trainer);
        (0..3).for_each(|_| assert!(!trainer.step().unwrap().skipped));
        let trained = trainer.backend.layout().trained().len();
        let parameters = trainer.backend.export().unwrap();
        assert_ne!(parameters.values, before);
        let [first, second] = &parameters.moments;
        assert_eq!([parameters.values.len(), first.len(), second.len()], [trained; 3]);
        let slots = trainer.backend.layout().trained_slots();
        assert!(slots.iter().all(|slot| slot.name.contains(".lora_") || slot.name.contains(".gate.")));
    }
}

#[test]
fn a_student_with_factors_begins_as_its_teacher_and_leaves_it() {
    let workshop = Workshop::new();
    let base = workshop.base();
    let changes = ["train=lora", "distill=0.5", "method=none", "gates=", "sparsity="];
    let common = [&*base, "init=", "tokenizer=", "optimizer.warmup=0", "optimizer.learning_rate=1e-2"];
    let changes = [&common[..], &changes[..]].concat();
    let mut trainer = workshop.trainer(&workshop.config("run", &changes));
    let first = trainer.step().unwrap();
    assert!(first.loss.mean_divergence().abs() < 1e-7, "{first:?}");
    let later = (0..5).map(|_| trainer.step().unwrap()).last().unwrap();
    assert!(later.loss.mean_divergence() > 1e-6, "{later:?}");
    assert!(later.norms.0 > 0.0 && later.moved, "{later:?}");
}

#[test]
fn targets_are_names_of_modules_and_others_are_refused_with_those_that_there_are() {
    let workshop = Workshop::new();
    let base = workshop.base();
    let chosen =
        config(&workshop, &base, &["steps=1", "train=lora", "lora={rank: 2, targets: [attn.c_proj]}"]);
    let (folder, _) = ran(&chosen);
    let adapter = fs::read(folder.join("adapter_config.json")).unwrap();
    let adapter: serde_json::Value = serde_json::from_slice(&adapter).unwrap();
    assert_eq!(adapter["target_modules"], serde_json::json!(["attn.c_proj"]));
    assert_eq!((&adapter["r"], &adapter["lora_alpha"]), (&2.into(), &32.0.into()));
    assert_eq!(adapter["fan_in_fan_out"], true);

    let wrong = config(&workshop, &base, &["train=lora", "lora={targets: [q_proj]}", "output=/nowhere"]);
    let source = crate::trainer::Source::open(&wrong).unwrap();
    let error = crate::trainer::Plan::of(&wrong, &source, None).unwrap_err().to_string();
    for word in ["lora.targets", "q_proj", "c_attn, c_fc, c_proj"] {
        assert!(error.contains(word), "{error}");
    }
}
