use std::fs;

use super::{Warnings, Workshop, begin};
use crate::checkpoint::RunDirectory;
use crate::config::Config;
use crate::metrics::Quiet;
use crate::signals::Stop;
use crate::trainer::{Source, examine};

/// The error of a look and that of the run, which must be the same.
fn both(config: &Config) -> String {
    let there = config.output.exists();
    let looked = examine(config, &Source::open(config).unwrap(), None, &mut Quiet).unwrap_err().to_string();
    assert_eq!(config.output.exists(), there, "a look leaves nothing");
    let ran = begin(config, "test", &mut Quiet, &Stop::new()).unwrap_err().to_string();
    assert_eq!(looked, ran);
    looked
}

#[test]
fn a_look_refuses_what_the_run_would() {
    let workshop = Workshop::new();
    let write = |name: &str, bytes: &[u8]| fs::write(workshop.path(name), bytes).unwrap();
    let at = |key: &str, name: &str| format!("{key}=[{}]", workshop.path(name).display());
    write("short.txt", b"the cat");
    write("broken.txt", &[&b"the cat sat on a mat\n".repeat(3000)[..], b"\xff\n"].concat());
    let mut output = 0;
    let mut refused = |change: String| {
        output += 1;
        both(&workshop.config(&format!("run{output}"), &[&change]))
    };
    assert!(refused(at("data.train", "short.txt")).contains("training data has"));
    assert!(refused(at("data.valid", "short.txt")).contains("validation data has"));
    assert!(refused(at("data.train", "broken.txt")).contains("line 3001"));
    assert!(refused(at("data.train", "none.txt")).contains("none.txt"));
}

#[test]
fn a_look_at_a_directory_sees_who_works_there_and_what_was_begun() {
    let workshop = Workshop::new();
    let config = workshop.config("run", &["steps=4"]);
    let source = Source::open(&config).unwrap();
    let looked = examine(&config, &source, None, &mut Quiet).unwrap();
    assert!(looked.train_tokens > 1000 && looked.valid_tokens.len() == 1 && looked.from_step == 0);
    assert!(!workshop.path("run").exists() && !workshop.path("cache").exists());
    begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
    assert_eq!(examine(&config, &source, None, &mut Quiet).unwrap().from_step, 4);
    assert!(both(&workshop.config("run", &["steps=4", "seed=9"])).contains("seed"));
    let held = RunDirectory::open(&config.output).unwrap();
    assert!(both(&config).contains("in use by the process"));
    drop(held);
    let manifest = workshop.path("run/step-000004/state.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"version\": 1", "\"version\": 3")).unwrap();
    assert!(both(&config).contains("format version 3"));
    let yaml = workshop.path("run/run.yaml");
    fs::write(&yaml, fs::read_to_string(&yaml).unwrap().replace("version: 1", "version: 2")).unwrap();
    assert!(both(&config).contains("run.yaml") && both(&config).contains("format version 2"));
}

#[test]
fn text_without_an_end_is_warned_of_before_and_in_the_run() {
    let workshop = Workshop::new();
    let file = workshop.path("tokenizer.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("<|endoftext|>", "<|other|>")).unwrap();
    let config = workshop.config("run", &["steps=1"]);
    let (mut looked, mut ran) = (Warnings::default(), Warnings::default());
    examine(&config, &Source::open(&config).unwrap(), None, &mut looked).unwrap();
    begin(&config, "test", &mut ran, &Stop::new()).unwrap();
    assert!(looked.0[0].contains("names a token that ends a text"), "{:?}", looked.0);
    assert_eq!(looked.0[0], ran.0[0]);
}
