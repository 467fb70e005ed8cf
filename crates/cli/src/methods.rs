//! `dropcap methods`: what METHODS knows.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use dropcap_methods::METHODS;
use serde_json::json;

/// Flags of `dropcap methods`.
#[derive(Args)]
pub struct Arguments {
    /// Print one JSON array for machines.
    #[arg(long)]
    json: bool,
}

/// Prints the list.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut out = crate::terminal::stdout();
    if arguments.json {
        let methods: Vec<_> = METHODS
            .iter()
            .map(|method| {
                let parameters: Vec<_> = method
                    .parameters
                    .iter()
                    .map(|parameter| json!({"name": parameter.name, "default": parameter.default, "help": parameter.help}))
                    .collect();
                json!({"name": method.name, "summary": method.summary, "source": method.source, "parameters": parameters})
            })
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&methods)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for method in METHODS {
        writeln!(out, "{}\n    {}\n    source: {}", method.name, method.summary, method.source)?;
        for parameter in method.parameters {
            writeln!(
                out,
                "      {:<20} {} [default: {}]",
                parameter.name, parameter.help, parameter.default
            )?;
        }
        writeln!(out)?;
    }
    writeln!(
        out,
        "Write a method as name(key=value, ...), with @2048 (tokens) or @0.5 (share kept) for a budget;\n`a & b` keeps only what both keep, and ada(a)@0.2 shares a budget between heads. Example: --method \"streaming_llm(sinks=4, recent=508)\""
    )?;
    Ok(ExitCode::SUCCESS)
}
