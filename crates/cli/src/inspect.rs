//! `dropcap inspect`: a trace as a page.

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use dropcap_files::{Existing, check, publish};

use crate::progress::warn;
use crate::terminal;

/// Flags of `dropcap inspect`.
#[derive(Args)]
pub struct Arguments {
    /// A trace, as `dropcap generate --trace` writes it.
    trace: PathBuf,
    /// The page to write: one HTML file that needs no network.
    #[arg(short, long, visible_alias = "out", value_name = "FILE")]
    output: PathBuf,
}

/// Writes the page.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    check(&arguments.output, Existing::Replace)?;
    let name = arguments.trace.display();
    let trace = File::open(&arguments.trace).with_context(|| format!("cannot open {name}"))?;
    let mut page = Vec::new();
    let summary = dropcap_inspect::inspect(BufReader::new(trace), &mut page)
        .with_context(|| format!("cannot make a page of {name}"))?;
    publish(&arguments.output, Existing::Replace, |file| file.write_all(&page))?;
    if let Some(torn) = summary.torn {
        warn(&format!("{name}: {torn}"));
    }
    let plural = if summary.sequences == 1 { "" } else { "s" };
    writeln!(
        terminal::stdout(),
        "{}: {} tokens of {} sequence{plural}",
        arguments.output.display(),
        summary.tokens,
        summary.sequences
    )?;
    Ok(ExitCode::SUCCESS)
}
