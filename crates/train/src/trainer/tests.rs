//! A whole training of a tiny model: what it learns, what it leaves on disk, and that stopping changes nothing.

mod adapter;
mod answers;
mod choosing;
mod company;
mod copy_task;
mod device;
mod examine;
mod faults;
mod leaf;
mod result;
mod resume;
mod settle;

use std::fs;
use std::path::{Path, PathBuf};

use super::{Finish, Source, Trainer, run};
use crate::TrainError;
use crate::collective::Alone;
use crate::config::Config;
use crate::metrics::{Quiet, Report};
use crate::signals::Stop;
use crate::tokenizer::train_bpe;

/// A folder with text, a tokenizer and what else a run needs.
struct Workshop {
    folder: tempfile::TempDir,
}

/// What makes the gates of a configuration decide at birth.
const BIRTH: [&str; 2] = ["gates.rule=birth", "gates.width="];

/// Small enough for milliseconds a step, with everything that a real one has.
const CONFIG: &str = "\
init: {family: gpt2, layers: 2, hidden: 32, heads: 2, context: 64}
method: dcp
seed: 5
steps: 12
batch: {sequences: 4, tokens: 48, micro_sequences: 2}
gates: {width: 4, sinks: 2, recent: 4}
sparsity: {target_keep: 0.3}
evaluate: {every: 4, windows: 2}
checkpoint: {every: 3}
threads: 2
";

impl Workshop {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let words = ["the", "cat", "dog", "sat", "ran", "on", "a", "mat", "road", "and", "then", "slept"];
        let mut state = 7_u32;
        for (name, length) in [("text.txt", 6000), ("held.txt", 2000)] {
            let mut text = String::new();
            for index in 0..length {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(words[(state >> 16) as usize % words.len()]);
                text.push(if index % 9 == 8 { '\n' } else { ' ' });
            }
            fs::write(folder.path().join(name), text).unwrap();
        }
        let workshop = Self { folder };
        train_bpe(&[workshop.path("text.txt")], 280, &workshop.path("tokenizer.json"), &mut |_| ()).unwrap();
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// [`CONFIG`] in this folder, with changes; `output` is a folder of its own.
    fn config(&self, output: &str, changes: &[&str]) -> Config {
        let here = |key: &str, name: &str| format!("{key}={}", self.path(name).display());
        let mut overrides = vec![
            here("tokenizer", "tokenizer.json"),
            format!("data.train=[{}]", self.path("text.txt").display()),
            format!("data.valid=[{}]", self.path("held.txt").display()),
            here("data.cache", "cache"),
            here("output", output),
        ];
        overrides.extend(changes.iter().map(|&change| change.to_owned()));
        Config::parse("test", CONFIG, &overrides).unwrap()
    }

    /// A dense model of a few steps in this folder, as the key that names it.
    fn base(&self) -> String {
        let config = self.config("base", &["steps=2", "method=none", "gates=", "sparsity="]);
        begin(&config, "test", &mut Quiet, &Stop::new()).unwrap();
        format!("model={}", self.path("base/model").display())
    }

    fn trainer(&self, config: &Config) -> Trainer {
        let source = Source::open(config).unwrap();
        let texts = source.texts(config, true, &mut |_| ()).unwrap();
        Trainer::new(config, source, texts, None, &mut |_| ()).unwrap()
    }
}

/// [`run`] of the model that the configuration names.
fn begin(config: &Config, command: &str, report: &mut dyn Report, stop: &Stop) -> Result<Finish, TrainError> {
    run(config, Source::open(config)?, None, command, Box::new(Alone), report, stop)
}

/// Keeps what it is warned of.
#[derive(Default)]
struct Warnings(Vec<String>);

impl Report for Warnings {
    fn warned(&mut self, warning: &str) {
        self.0.push(warning.to_owned());
    }
}

fn values(trainer: &mut Trainer) -> Vec<f32> {
    trainer.backend.export().unwrap().values.into_owned()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
