//! `--task`: what is measured, on which file or of which kind.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use dropcap_eval::{Kind, LikelihoodTask, Recall, RecallKind, RecallTask, Subject, Task, TextTask};
use dropcap_train::Digest;
use serde_json::{Value, json};

use super::Arguments;

/// One `--task`.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskSpec {
    /// `text=FILE`.
    Text(PathBuf),
    /// `hellaswag=FILE` and the like.
    Likelihood(&'static str, Kind, PathBuf),
    /// `needle` and the like.
    Recall(&'static str, RecallKind),
}

impl FromStr for TaskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, file) = match text.split_once('=') {
            Some((name, file)) => (name.trim(), Some(file)),
            None => (text.trim(), None),
        };
        let known = Kind::ALL.iter().find(|known| known.0 == name);
        let generated = RecallKind::ALL.iter().find(|known| known.0 == name);
        match (name, known, generated, file) {
            ("text", _, _, Some(file)) if !file.is_empty() => Ok(Self::Text(file.into())),
            (_, Some(&(name, kind)), _, Some(file)) if !file.is_empty() => {
                Ok(Self::Likelihood(name, kind, file.into()))
            }
            (_, _, Some(&(name, kind)), None) => Ok(Self::Recall(name, kind)),
            (_, _, Some(_), Some(_)) => Err(format!("{name} is generated and takes no file")),
            ("text", ..) | (_, Some(_), ..) => Err(format!("{name} needs a file: write {name}=FILE")),
            _ => {
                let known = Kind::ALL.iter().map(|known| known.0);
                let generated = RecallKind::ALL.iter().map(|known| known.0);
                let names: Vec<&str> = std::iter::once("text").chain(known).chain(generated).collect();
                Err(format!("'{name}' is no task: there are {}", names.join(", ")))
            }
        }
    }
}

impl TaskSpec {
    /// The tasks, one for each length where there are several, each with what its numbers depend on.
    pub fn open(&self, arguments: &Arguments, subject: &Subject) -> Result<Vec<(Task, Value)>> {
        let positions = subject.config.max_positions;
        let limit = arguments.limit;
        match self {
            Self::Text(path) => {
                let window = arguments.window.unwrap_or(positions.min(1024));
                let name = format!("text {}", file_name(path));
                let task = TextTask::open(name.clone(), path, subject, window, arguments.context, limit)?;
                let described = json!({
                    "name": name,
                    "file": path,
                    "sha256": digest(path)?,
                    "window": window,
                    "context": arguments.context,
                    "limit": limit,
                });
                Ok(vec![(Task::Text(task), described)])
            }
            Self::Likelihood(name, kind, path) => {
                let task = LikelihoodTask::open((*name).to_owned(), *kind, path, limit)?;
                let described = json!({"name": name, "file": path, "sha256": digest(path)?, "limit": limit});
                Ok(vec![(Task::Likelihood(task), described)])
            }
            Self::Recall(name, kind) => {
                let half = [(positions / 2).min(1024)];
                let lengths = if arguments.length.is_empty() { &half[..] } else { &arguments.length };
                lengths.iter().map(|&length| self::recall(name, *kind, length, arguments, subject)).collect()
            }
        }
    }
}

fn recall(
    name: &str,
    kind: RecallKind,
    length: usize,
    arguments: &Arguments,
    subject: &Subject,
) -> Result<(Task, Value)> {
    let usual = match kind {
        RecallKind::SecondQuestion => 2,
        RecallKind::MultiTurn => 4,
        RecallKind::Copying => 20,
        RecallKind::Needle | RecallKind::KeyValue | RecallKind::OpenBook => 1,
    };
    let recall = Recall {
        kind,
        length,
        depths: arguments.generated.depth.clone(),
        facts: arguments.facts.unwrap_or(usual),
        prompts: arguments.prompts.min(arguments.limit.unwrap_or(usize::MAX)),
        seed: arguments.generated.seed,
        aware: arguments.aware,
        haystack: arguments.generated.haystack.clone(),
    };
    let name = format!("{name} {length}");
    let task = RecallTask::generate(name.clone(), &recall, subject)?;
    let haystack = arguments.generated.haystack.as_deref().map(digest).transpose()?;
    let described = json!({
        "name": name,
        "depths": recall.depths,
        "facts": recall.facts,
        "prompts": recall.prompts,
        "seed": recall.seed,
        "aware": recall.aware,
        "chat_template": subject.template.is_some(),
        "haystack": arguments.generated.haystack,
        "haystack_sha256": haystack,
    });
    Ok((Task::Recall(task), described))
}

/// A share, from 0 to 1.
///
/// # Errors
/// What is no such number.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("'{text}' is no share: write a number from 0 to 1"))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn digest(path: &Path) -> Result<String> {
    Ok(Digest::of_file(path)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_named_with_their_files_or_without() {
        assert_eq!("text=a=b.txt".parse(), Ok(TaskSpec::Text("a=b.txt".into())));
        assert_eq!("piqa=x".parse(), Ok(TaskSpec::Likelihood("piqa", Kind::Piqa, "x".into())));
        assert_eq!("needle".parse(), Ok(TaskSpec::Recall("needle", RecallKind::Needle)));
        for (text, words) in [
            ("text", "text=FILE"),
            ("hellaswag=", "hellaswag=FILE"),
            ("needle=x", "takes no file"),
            ("boolq=x", "'boolq' is no task: there are text, lambada"),
        ] {
            let error = text.parse::<TaskSpec>().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_share_lies_between_nothing_and_all() {
        assert_eq!(share(" 0.25"), Ok(0.25));
        for text in ["-0.1", "1.1", "nan", "half", ""] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
