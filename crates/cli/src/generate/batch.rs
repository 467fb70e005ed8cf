//! Drives the engine until every prompt is answered, and shows what comes out.
//!
//! One prompt streams its text as it grows. Several show a bar while they run and then their texts in the
//! order in which they were given.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use dropcap_engine::{Engine, FinishReason, Finished, Output, Request, SequenceId, TextStream};
use dropcap_model::Tokenizer;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::account;
use super::watch::Watch;
use crate::terminal;

/// How one prompt stands.
struct Entry {
    stream: Option<TextStream>,
    text: String,
    /// Whether a stop string has ended the text: its sequence may end for another reason at the same token.
    stopped: bool,
    outcome: Option<Result<Finished>>,
}

/// All prompts of one run, in the order in which they were given.
pub(super) struct Batch {
    json: bool,
    /// How the weights are held, for the account.
    weights: String,
    streams: bool,
    entries: Vec<Entry>,
    index: HashMap<SequenceId, usize>,
    bar: ProgressBar,
    watch: Option<Watch>,
}

impl Batch {
    pub(super) fn new(json: bool, weights: String, prompts: usize, watch: Option<Watch>) -> Self {
        let bar = if prompts > 1 && std::io::stderr().is_terminal() {
            ProgressBar::new(prompts as u64)
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} prompts, {msg}, {elapsed}") {
            bar.set_style(style);
        }
        let (entries, index) = (Vec::with_capacity(prompts), HashMap::new());
        let streams = prompts == 1 && !json && watch.is_none();
        Batch { json, weights, streams, entries, index, bar, watch }
    }

    fn say(&self, account: &str) {
        terminal::say(&format!("{account} | weights {}", self.weights));
    }

    /// Queues one prompt. One that the engine refuses fails alone if there are others.
    pub(super) fn submit(
        &mut self,
        engine: &mut Engine,
        request: Request,
        tokenizer: Option<Arc<Tokenizer>>,
        stops: Vec<String>,
    ) -> Result<()> {
        let (prompt, stop_tokens) = (&request.prompt, &request.stop_tokens);
        let stream = tokenizer.map(|tokenizer| TextStream::new(tokenizer, prompt, stop_tokens, stops));
        let stream = stream.transpose()?;
        let mut entry = Entry { stream, text: String::new(), stopped: false, outcome: None };
        match engine.submit(request) {
            Ok(id) => {
                self.index.insert(id, self.entries.len());
            }
            Err(error) => entry.outcome = Some(Err(error.into())),
        }
        self.entries.push(entry);
        Ok(())
    }

    /// Runs to the end and prints; fails if any prompt failed or ran out of memory, or the trace is not whole. Every
    /// text is printed first, as far as it came.
    pub(super) fn drive(mut self, engine: &mut Engine) -> Result<ExitCode> {
        let (mut tokens, start) = (0usize, Instant::now());
        while !engine.is_idle() {
            for output in engine.step()? {
                match output {
                    Output::Token { id, token, .. } => {
                        tokens += 1;
                        self.take(engine, id, token)?;
                    }
                    // Nobody asks for them here.
                    Output::Prompt { .. } => {}
                    Output::Finished(finished) => self.end(finished)?,
                    Output::Failed { id, error } => self.fail(id, error.into()),
                }
            }
            self.bar.set_message(format!("{} running, {tokens} tokens", engine.running()));
            if let Some(watch) = &mut self.watch {
                watch.draw(engine)?;
            }
        }
        self.bar.finish_and_clear();
        if let Some(watch) = self.watch.take() {
            watch.finish()?;
        }
        let trace = engine.finish_trace().context("the trace is not whole (the texts are)");
        self.print(start.elapsed(), trace.err())
    }

    fn take(&mut self, engine: &mut Engine, id: SequenceId, token: u32) -> Result<()> {
        let entry = &mut self.entries[self.index[&id]];
        let Some(stream) = &mut entry.stream else { return Ok(()) };
        match stream.push(token) {
            Ok((piece, stopped)) => {
                show(self.streams, &piece)?;
                if let Some(watch) = &mut self.watch {
                    watch.expect(&piece);
                }
                entry.text.push_str(&piece);
                entry.stopped = stopped;
            }
            Err(error) => {
                engine.finish(id, FinishReason::Cancelled)?;
                self.fail(id, error.into());
                return Ok(());
            }
        }
        // None where this token was also the last that it might generate: then its end comes by itself.
        if entry.stopped
            && let Some(finished) = engine.finish(id, FinishReason::Stop)?
        {
            self.end(finished)?;
        }
        Ok(())
    }

    fn end(&mut self, mut finished: Finished) -> Result<()> {
        let entry = &mut self.entries[self.index[&finished.id]];
        if let Some(stream) = entry.stream.as_mut().filter(|_| !entry.stopped) {
            match stream.finish() {
                Ok((rest, stopped)) => {
                    show(self.streams, &rest)?;
                    entry.text.push_str(&rest);
                    entry.stopped = stopped;
                }
                Err(error) => {
                    self.fail(finished.id, error.into());
                    return Ok(());
                }
            }
        }
        if entry.stopped {
            finished.reason = FinishReason::Stop;
        }
        if entry.outcome.is_none() {
            entry.outcome = Some(Ok(finished));
            self.bar.inc(1);
        }
        Ok(())
    }

    /// Gives one prompt up; what it has of a text stays. The first word on it stands.
    fn fail(&mut self, id: SequenceId, error: anyhow::Error) {
        let outcome = &mut self.entries[self.index[&id]].outcome;
        if outcome.is_none() {
            *outcome = Some(Err(error));
            self.bar.inc(1);
        }
    }

    fn print(&self, elapsed: Duration, trace: Option<anyhow::Error>) -> Result<ExitCode> {
        let mut out = terminal::stdout();
        let single = self.entries.len() == 1;
        let (mut done, mut failures) = (Vec::new(), Vec::new());
        for (number, entry) in self.entries.iter().enumerate() {
            let place = if single { String::new() } else { format!("prompt {}: ", number + 1) };
            match &entry.outcome {
                Some(Ok(finished)) => {
                    match (self.json, single) {
                        (true, _) => writeln!(out, "{}", account::finished_json(finished, &entry.text))?,
                        (false, true) => writeln!(out)?,
                        (false, false) => writeln!(out, "--- {}\n{}", number + 1, entry.text)?,
                    }
                    if let FinishReason::OutOfMemory(shortage) = finished.reason {
                        failures.push(format!("{place}{shortage}"));
                    }
                    done.push(finished);
                }
                Some(Err(error)) => {
                    match (self.json, entry.text.is_empty()) {
                        (true, true) => writeln!(out, "{}", json!({"error": error.to_string()}))?,
                        (true, false) => {
                            writeln!(out, "{}", json!({"error": error.to_string(), "text": entry.text}))?;
                        }
                        (false, true) => {}
                        // A text that streams is on the terminal already, without the end of its line.
                        (false, false) if single => writeln!(out)?,
                        (false, false) => writeln!(out, "--- {}\n{}", number + 1, entry.text)?,
                    }
                    failures.push(format!("{place}{error}"));
                }
                None => failures.push(format!("{place}never finished")),
            }
        }
        match &done[..] {
            _ if self.json => {}
            [] => {}
            [finished] if single => self.say(&account::line(finished)),
            several => self.say(&account::total_line(several, elapsed)),
        }
        failures.extend(trace.map(|error| format!("{error:#}")));
        if failures.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(anyhow::anyhow!(failures.join("\n"))) }
    }
}

/// Shows a piece of the streaming text at once.
fn show(streams: bool, piece: &str) -> Result<()> {
    if streams && !piece.is_empty() {
        let mut out = terminal::stdout();
        out.write_all(piece.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}
