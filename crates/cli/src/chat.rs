//! `dropcap chat`: a conversation in the terminal, with an account of the memory after each answer.

mod conversation;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::Args;
use dropcap_engine::{EngineOptions, FinishReason, Output, Request, Sampling, TextStream};
use dropcap_model::Tokenizer;

use crate::arguments::{MethodArguments, ModelArguments, SamplingArguments};
use crate::loading::Language;
use crate::{generate, loading, size, terminal};
use conversation::Conversation;

/// Memory that may be kept of earlier turns, in bytes; it yields to the turn that runs.
const EARLIER_TURNS: usize = 1 << 30;
/// What can be said beside messages.
const HELP: &str = "/reset forgets the conversation, /save FILE keeps it as JSON, /exit or Ctrl-D ends, Ctrl-C stops an answer";

/// Flags of `dropcap chat`.
#[derive(Args)]
#[command(
    mut_arg("temperature", |arg| arg.default_value("0.7")),
    mut_arg("top_p", |arg| arg.default_value("0.95"))
)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    method: MethodArguments,
    /// What the conversation begins with, as the system's message.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A Jinja file that makes a text of the conversation [default: the model's own].
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Most tokens of an answer.
    #[arg(short = 'n', long, value_name = "N", default_value = "256", allow_negative_numbers = true, value_parser = size::positive)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
}

/// What a line of the person means.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Message(&'a str),
    Reset,
    Save(&'a Path),
    Exit,
    Help,
    Nothing,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        let (word, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        match (word, rest.trim()) {
            ("", _) => Self::Nothing,
            ("/reset", "") => Self::Reset,
            ("/exit" | "/quit", "") => Self::Exit,
            ("/save", path) if !path.is_empty() => Self::Save(Path::new(path)),
            (word, _) if word.starts_with('/') => Self::Help,
            _ => Self::Message(line.trim()),
        }
    }
}

/// Talks until the input ends.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let method = arguments.method.of(&arguments.model)?;
    let loaded = loading::load(&arguments.model, &method)?;
    let Language { tokenizer, generation, template } = loaded.language(arguments.chat_template.as_deref())?;
    let template = template.with_context(|| {
        format!("{} has no chat template: name one with --chat-template FILE", loaded.directory.display())
    })?;
    let mut conversation = Conversation::new(template, tokenizer.clone(), arguments.system.clone());
    // Each turn begins with all those before it.
    let options = loaded.engine_options(&arguments.model.machine, None, 1);
    let mut engine = loaded.engine(EngineOptions { prefix_bytes: EARLIER_TURNS, ..options }, false)?;
    // At the prompt there is nothing to stop, and the program goes on.
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, stop.clone())?;
    let mut input = std::io::stdin().lock();
    let is_terminal = input.is_terminal();
    if is_terminal {
        let (model, formats) = (arguments.model.name(), loaded.compute.formats());
        terminal::say(&format!("{model} ({formats}) with method {method}. {HELP}"));
    }
    let mut turn = 0;
    loop {
        if is_terminal {
            let mut out = terminal::stdout();
            write!(out, "> ")?;
            out.flush()?;
        }
        let mut line = String::new();
        if input.read_line(&mut line).context("standard input")? == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let text = match Line::read(&line) {
            Line::Nothing => continue,
            Line::Exit => return Ok(ExitCode::SUCCESS),
            Line::Help => {
                terminal::say(HELP);
                continue;
            }
            Line::Reset => {
                conversation.reset();
                terminal::say("the conversation is forgotten");
                continue;
            }
            Line::Save(path) => {
                match conversation.save(path) {
                    Ok(()) => terminal::say(&format!("saved to {}", path.display())),
                    Err(error) => terminal::say(&format!("error: {}", crate::sentence(&error))),
                }
                continue;
            }
            Line::Message(text) => text.to_owned(),
        };
        stop.store(false, Ordering::Relaxed);
        let sampling = arguments.sampling.sampling();
        let sampling = Sampling { seed: sampling.seed.wrapping_add(turn), ..sampling };
        turn += 1;
        let stop_tokens = generation.eos_token_ids.clone();
        // A message that cannot be answered is not part of the conversation.
        let answered = conversation.ask(&text).and_then(|prompt| {
            let request = Request {
                prompt,
                max_tokens: arguments.max_tokens,
                sampling,
                stop_tokens,
                ..Request::default()
            };
            answer(&mut engine, request, &tokenizer, &stop)
        });
        match answered {
            Ok(answer) => conversation.add(text, answer),
            Err(error) => terminal::say(&format!("error: {} (/reset begins anew)", crate::sentence(&error))),
        }
    }
}

/// Streams an answer to standard output, and its account to standard error.
fn answer(
    engine: &mut dropcap_engine::Engine,
    request: Request,
    tokenizer: &Arc<Tokenizer>,
    stop: &AtomicBool,
) -> Result<String> {
    let mut stream = TextStream::new(tokenizer.clone(), &request.prompt, &request.stop_tokens, Vec::new())?;
    let (mut out, mut text) = (terminal::stdout(), String::new());
    let mut show = |piece: String| {
        text.push_str(&piece);
        write!(out, "{piece}").and_then(|()| out.flush())
    };
    let id = engine.submit(request)?;
    let mut finished = None;
    while finished.is_none() {
        if stop.load(Ordering::Relaxed) {
            finished = engine.finish(id, FinishReason::Cancelled)?;
            break;
        }
        for output in engine.step()? {
            match output {
                Output::Token { token, .. } => show(stream.push(token)?.0)?,
                Output::Prompt { .. } => {}
                Output::Finished(done) => finished = Some(done),
                Output::Failed { error, .. } => return Err(error.into()),
            }
        }
    }
    show(stream.finish()?.0)?;
    writeln!(out)?;
    if let Some(finished) = &finished {
        terminal::say(&generate::account_line(finished));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_begins_with_a_slash_is_for_the_program() {
        assert_eq!(Line::read("  a b\n"), Line::Message("a b"));
        assert_eq!(Line::read("/save a b.json\n"), Line::Save(Path::new("a b.json")));
        for (line, meaning) in [
            ("\n", Line::Nothing),
            ("/reset\n", Line::Reset),
            ("/exit", Line::Exit),
            ("/save\n", Line::Help),
            ("/what\n", Line::Help),
        ] {
            assert_eq!(Line::read(line), meaning);
        }
    }
}
