//! `dropcap tokenizer`: a tokenizer of one's own text.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use dropcap_files::{Existing, FileError, check};
use dropcap_train::tokenizer::{MAX_WORD_BYTES, MIN_VOCABULARY, TokenizerProgress, train_bpe};
use serde_json::json;

use crate::{progress, size};

/// Flags of `dropcap tokenizer`.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Train a byte-level BPE tokenizer on text and write its tokenizer.json.
    Train(Train),
}

/// Flags of `dropcap tokenizer train`.
#[derive(Args)]
struct Train {
    /// Text to train on: plain, or `.jsonl` with a `text`, a `prompt` and `completion`, or `messages` a line; either may be `.xz`. Lines that are exactly
    /// `<|endoftext|>` separate documents.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Tokens of the vocabulary; at least 257, all bytes and `<|endoftext|>`.
    #[arg(short, long, value_name = "N", default_value = "8192", value_parser = size::count)]
    vocabulary: usize,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", default_value = "tokenizer.json")]
    output: PathBuf,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
    /// Print one JSON object for machines.
    #[arg(long)]
    json: bool,
}

/// Progress is shown so often.
const TOLD_EVERY: Duration = Duration::from_millis(100);

/// Runs the verb.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.verb {
        Verb::Train(arguments) => train(arguments),
    }
}

fn train(arguments: &Train) -> Result<ExitCode> {
    let output = file_in(&arguments.output);
    let existing = if arguments.force { Existing::Replace } else { Existing::Refuse };
    match check(&output, existing) {
        Err(FileError::Exists { path }) => {
            bail!("{} exists: give another --output, or --force to replace it", path.display())
        }
        checked => checked?,
    }
    let bar = progress::spinner("reading");
    let (begin, mut told) = (Instant::now(), Duration::ZERO);
    let mut tell = |progress: TokenizerProgress| match progress {
        // A corpus of short lines has millions of documents.
        TokenizerProgress::Reading { documents, bytes } if begin.elapsed() > told + TOLD_EVERY => {
            told = begin.elapsed();
            bar.set_message(format!("reading: {documents} documents, {}", size::human(bytes)));
        }
        TokenizerProgress::Reading { .. } => {}
        TokenizerProgress::Joining { bytes } => {
            let vocabulary = arguments.vocabulary;
            bar.set_message(format!(
                "joining pairs of {} until there are {vocabulary} tokens",
                size::human(bytes)
            ));
        }
    };
    let trained = train_bpe(&arguments.files, arguments.vocabulary, &output, &mut tell);
    bar.finish_and_clear();
    let trained = trained?;
    if trained.vocabulary < arguments.vocabulary {
        progress::warn(&format!(
            "the text is too small for {} tokens; the vocabulary has {} (at least {MIN_VOCABULARY})",
            arguments.vocabulary, trained.vocabulary
        ));
    }
    if trained.cut_words > 0 {
        progress::warn(&format!(
            "{} stretches without a space were longer than {MAX_WORD_BYTES} bytes and were cut: is this text?",
            trained.cut_words
        ));
    }
    let mut out = crate::terminal::stdout();
    if arguments.json {
        let object = json!({
            "output": output,
            "vocabulary": trained.vocabulary,
            "documents": trained.documents,
            "bytes": trained.bytes,
            "cut_words": trained.cut_words,
            "seconds": begin.elapsed().as_secs_f64(),
        });
        writeln!(out, "{object}")?;
    } else {
        writeln!(
            out,
            "{}: {} tokens, from {} documents ({})",
            output.display(),
            trained.vocabulary,
            trained.documents,
            size::human(trained.bytes)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A directory stands for the file that belongs into it.
fn file_in(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() }
}
