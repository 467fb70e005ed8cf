use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::TrainError;
use crate::digest::Digest;
use crate::disk::{Disk, LocalDisk};
use dropcap_files::faulty::{Fault, FaultyDisk};
use dropcap_weights::NewTensor;

fn facts(step: u64) -> StateFacts {
    StateFacts {
        step,
        config: Digest::of(b"config"),
        model: "gpt2/l1".to_owned(),
        extra: json!({"gamma": 0.3, "step": step}),
    }
}

/// Saves a state whose numbers are its step.
fn save(run: &RunDirectory, step: u64, keep: usize) -> Result<(), TrainError> {
    let weights = [step as f32; 100];
    let mut state = run.begin(facts(step), 1000)?;
    state.tensors("model.safetensors", &[NewTensor::f32("w", &[10, 10], &weights)])?;
    state.tensors("optimizer.safetensors", &[NewTensor::u64("step", &[1], &[step])])?;
    state.file("config.json", b"{}")?;
    state.publish(keep).map(|_| ())
}

/// The step of the state that a fresh process would go on from, and the warnings; its numbers are checked.
fn resumed(path: &Path) -> (Option<u64>, Vec<String>) {
    let run = RunDirectory::open(path).unwrap();
    let mut warnings = Vec::new();
    let state = run.resume(&mut |warning| warnings.push(warning)).unwrap();
    let step = state.map(|state| {
        let weights = state.tensors("model.safetensors").unwrap().read_f32("w").unwrap();
        assert!(weights.len() == 100 && weights.iter().all(|&weight| weight == state.step() as f32));
        assert_eq!(state.extra(), &json!({"gamma": 0.3, "step": state.step()}));
        assert_eq!((state.config(), state.model()), (&*Digest::of(b"config").to_string(), "gpt2/l1"));
        state.step()
    });
    (step, warnings)
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_state_is_found_again_and_only_the_newest_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(resumed(folder.path()), (None, vec![]));
    {
        let run = RunDirectory::open(folder.path()).unwrap();
        run.save_config("steps: 1\n").unwrap();
        for step in [0, 100, 200, 300] {
            save(&run, step, 2).unwrap();
            assert!(run.has(step));
        }
        assert_eq!(run.steps().unwrap(), [300, 200]);
        assert!(matches!(save(&run, 300, 2), Err(TrainError::AlreadySaved { .. })));
        assert_eq!(super::begun_with(run.path()).unwrap().as_deref(), Some("steps: 1\n"));
    }
    assert_eq!(resumed(folder.path()), (Some(300), vec![]));
    assert_eq!(names(folder.path()), ["latest", "lock", "run.yaml", "step-000200", "step-000300"]);
}

#[test]
fn a_process_killed_at_any_point_leaves_a_published_state() {
    // 10 and 20 are published, the process dies while it saves 30 and removes 10 and 20.
    let mut seen = Vec::new();
    for allowed in 0.. {
        let folder = tempfile::tempdir().unwrap();
        {
            let run = RunDirectory::open(folder.path()).unwrap();
            save(&run, 10, 2).unwrap();
            save(&run, 20, 2).unwrap();
        }
        let finished = {
            let disk = FaultyDisk::new(Fault::Killed, allowed);
            let run = RunDirectory::on(Arc::new(disk), folder.path()).unwrap();
            save(&run, 30, 1).is_ok()
        };
        let (step, warnings) = resumed(folder.path());
        assert!(step == Some(20) || step == Some(30), "after {allowed} operations: {step:?}");
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(!names(folder.path()).iter().any(|name| name.starts_with(".partial")), "tidied up");
        seen.push(step.unwrap());
        // The next process saves the same step, whatever the dead one left.
        let run = RunDirectory::open(folder.path()).unwrap();
        if !run.has(30) {
            save(&run, 30, 2).unwrap();
        }
        drop(run);
        assert_eq!(resumed(folder.path()).0, Some(30));
        if finished {
            break;
        }
    }
    assert!(seen.len() > 15 && seen.is_sorted(), "{seen:?}");
}

#[test]
fn the_first_state_is_whole_or_absent() {
    for allowed in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(Fault::Killed, allowed);
        let run = RunDirectory::on(Arc::new(disk), folder.path()).unwrap();
        let finished = save(&run, 10, 2).is_ok();
        drop(run);
        let step = resumed(folder.path()).0;
        assert!(step.is_none() || step == Some(10));
        if finished {
            break;
        }
    }
}

#[test]
fn a_full_disk_is_a_clear_error_and_costs_nothing() {
    for allowed in 0.. {
        let folder = tempfile::tempdir().unwrap();
        {
            let run = RunDirectory::open(folder.path()).unwrap();
            save(&run, 10, 1).unwrap();
        }
        let disk = FaultyDisk::new(Fault::Full, allowed);
        let run = RunDirectory::on(Arc::new(disk), folder.path()).unwrap();
        let result = save(&run, 20, 1);
        drop(run);
        match result {
            Ok(()) => break,
            Err(error) => {
                let words = error.to_string();
                assert!(words.contains("disk is full") && words.contains("intact"), "{words}");
                assert!(!names(folder.path()).iter().any(|name| name.starts_with(".partial")), "{words}");
                assert_eq!(resumed(folder.path()).0, Some(10));
            }
        }
    }
}

/// A disk with almost nothing left.
#[derive(Debug)]
struct NearlyFull;

impl Disk for NearlyFull {
    fn create(
        &self,
        path: &Path,
        like: Option<&fs::Metadata>,
    ) -> std::io::Result<Box<dyn crate::disk::DiskFile>> {
        LocalDisk.create(path, like)
    }
    fn create_folder(&self, path: &Path) -> std::io::Result<()> {
        LocalDisk.create_folder(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        LocalDisk.rename(from, to)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        LocalDisk.rename_new(from, to)
    }
    fn settle(&self, folder: &Path) -> std::io::Result<()> {
        LocalDisk.settle(folder)
    }
    fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        LocalDisk.remove_file(path)
    }
    fn remove_folder(&self, path: &Path) -> std::io::Result<()> {
        LocalDisk.remove_folder(path)
    }
    fn free_bytes(&self, _folder: &Path) -> std::io::Result<u64> {
        Ok(20 << 20)
    }
}

#[test]
fn a_state_that_cannot_fit_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDirectory::on(Arc::new(NearlyFull), folder.path()).unwrap();
    let error = run.begin(facts(1), 5 << 20).unwrap_err().to_string();
    let (needed, free) = ((21_u64 << 20).to_string(), (20_u64 << 20).to_string());
    assert!(error.contains(&needed) && error.contains(&free), "{error}");
    assert_eq!(names(folder.path()), ["lock"]);
    run.begin(facts(1), 1 << 20).unwrap().publish(1).unwrap();
    assert!(LocalDisk.free_bytes(folder.path()).unwrap() > 0);
}

#[test]
fn a_second_process_is_refused_with_the_number_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let first = RunDirectory::open(folder.path()).unwrap();
    // Another open file of the same lock stands for another process.
    let error = RunDirectory::open(folder.path()).unwrap_err();
    assert!(
        matches!(error, TrainError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    drop(first);
    // The file of a dead process is no lock.
    assert!(folder.path().join("lock").exists());
    RunDirectory::open(folder.path()).unwrap();
}

fn two_states() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let run = RunDirectory::open(folder.path()).unwrap();
    save(&run, 10, 5).unwrap();
    save(&run, 20, 5).unwrap();
    folder
}

#[test]
fn a_damaged_state_gives_way_to_the_one_before_with_a_warning() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("model.safetensors", |state| fs::remove_file(state.join("model.safetensors")).unwrap()),
        ("optimizer.safetensors has", |state| fs::write(state.join("optimizer.safetensors"), "x").unwrap()),
        ("other bytes", |state| {
            let path = state.join("model.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("state.json", |state| fs::write(state.join(MANIFEST), "{").unwrap()),
        ("no format", |state| fs::write(state.join(MANIFEST), "{\"version\": 99}").unwrap()),
        ("cannot read state.json", |state| fs::remove_file(state.join(MANIFEST)).unwrap()),
    ];
    for (words, damage) in damages {
        let folder = two_states();
        damage(&folder.path().join("step-000020"));
        let (step, warnings) = resumed(folder.path());
        assert_eq!(step, Some(10));
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{words}: {warnings:?}");
        // The damaged one is set aside, so that its step can be saved again.
        assert!(names(folder.path()).contains(&"damaged-000020-1".to_owned()));
        let run = RunDirectory::open(folder.path()).unwrap();
        save(&run, 20, 5).unwrap();
        drop(run);
        assert_eq!(resumed(folder.path()), (Some(20), vec![]));
    }
}

#[test]
fn without_a_whole_state_nothing_is_begun_anew() {
    let folder = two_states();
    for step in ["step-000010", "step-000020"] {
        fs::write(folder.path().join(step).join("config.json"), "x").unwrap();
    }
    let error = RunDirectory::open(folder.path()).unwrap().resume(&mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("step-000010") && error.contains("step-000020"), "{error}");
    assert!(folder.path().join("step-000020").exists(), "nothing was moved");
}

#[test]
fn a_missing_or_wrong_pointer_means_the_newest_whole_state() {
    for text in [None, Some("step-000099\n"), Some("../x"), Some("")] {
        let folder = two_states();
        let latest = folder.path().join("latest");
        match text {
            Some(text) => fs::write(latest, text).unwrap(),
            None => fs::remove_file(latest).unwrap(),
        }
        let (step, warnings) = resumed(folder.path());
        assert_eq!((step, warnings.len()), (Some(20), 1), "{text:?}");
    }
}

#[test]
fn a_state_of_a_later_version_is_refused_and_not_passed_over() {
    let folder = two_states();
    let path = folder.path().join("step-000020").join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap().replace("\"version\": 1", "\"version\": 2");
    fs::write(&path, text).unwrap();
    let error = RunDirectory::open(folder.path()).unwrap().resume(&mut |_| ()).unwrap_err();
    assert!(matches!(error, TrainError::NewerFormat { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_state_names_only_files_of_its_own() {
    let folder = two_states();
    let path = folder.path().join("step-000020");
    let text = fs::read_to_string(path.join(MANIFEST)).unwrap();
    fs::write(path.join(MANIFEST), text.replace("config.json", "../latest")).unwrap();
    assert!(SavedState::open(&path).unwrap_err().to_string().contains("no plain file name"));
    let other = SavedState::open(&folder.path().join("step-000010")).unwrap();
    assert!(other.path("state.txt").is_err() && other.path("config.json").is_ok());
    assert_eq!(other.folder(), folder.path().join("step-000010"));
}
