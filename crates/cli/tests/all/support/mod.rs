//! What the command's tests share: golden models, a copy with a tokenizer, runs of the command.

pub mod browser;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};

/// A path below `tests/golden`.
pub fn golden(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden")).join(path)
}

/// The command, away from the user's environment.
pub fn dropcap(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("dropcap").unwrap();
    command
        .args(arguments)
        .env_clear()
        .env("HF_HUB_OFFLINE", "1")
        .env("HOME", "/nonexistent")
        .timeout(std::time::Duration::from_secs(120));
    command
}

/// What a run that must succeed prints.
pub fn output(arguments: &[&str]) -> String {
    let output = dropcap(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What a run that must succeed prints, and what it says beside it.
pub fn both(arguments: &[&str]) -> (String, String) {
    let output = dropcap(arguments).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    (String::from_utf8(output.stdout).unwrap(), errors)
}

/// What a run that must fail says; it must be an error message and not a panic.
pub fn failure(arguments: &[&str]) -> String {
    let output = dropcap(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} should fail");
    assert!(output.status.code().is_some_and(|code| code == 1 || code == 2), "{:?}: {errors}", output.status);
    assert!(errors.contains("error") && !errors.contains("panicked"), "{arguments:?}: {errors}");
    errors
}

/// A copy of a golden model that a test may damage, with a tokenizer of words `w0 w1 ..`.
pub fn copy(folder: &str, vocabulary: usize) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(folder)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let words: serde_json::Map<String, Value> =
        (0..vocabulary).map(|id| (format!("w{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    std::fs::write(copy.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    copy
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
