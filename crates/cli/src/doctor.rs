//! `dropcap doctor`: what this machine has, and why something cannot be used.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use dropcap_kernels::Isa;
use dropcap_kernels::cuda::{Device, Library, compiler_version};
use serde_json::{Value, json};

use crate::bench::processor;
use crate::device::{kernel_cache, open};

/// Flags of `dropcap doctor`.
#[derive(Args)]
pub struct Arguments {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// One line of the account: what, whether it is of use, and the details or the reason.
struct Finding {
    what: String,
    usable: bool,
    text: String,
}

/// Looks at everything and prints it; a machine without a GPU is a healthy one.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let findings = look();
    let mut out = crate::terminal::stdout();
    if arguments.json {
        let rows: Vec<Value> = findings
            .iter()
            .map(|finding| json!({"what": finding.what, "usable": finding.usable, "text": finding.text}))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for Finding { what, usable, text } in &findings {
        writeln!(out, "{} {what:<16} {text}", if *usable { "ok  " } else { "none" })?;
    }
    let gpu = findings.iter().any(|finding| finding.usable && finding.what.starts_with("cuda:"));
    let verdict =
        if gpu { "--device auto runs on the first GPU" } else { "--device auto runs on the processor" };
    writeln!(out, "\n{verdict}")?;
    Ok(ExitCode::SUCCESS)
}

fn look() -> Vec<Finding> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let text = format!("{}, {threads} threads, {:?}", processor(), Isa::best());
    let mut findings = vec![Finding { what: "processor".into(), usable: true, text }];
    for library in Library::ALL {
        let (usable, text) = match library.load() {
            Ok(()) => (true, "loaded".to_owned()),
            Err(error) => (false, error.to_string()),
        };
        findings.push(Finding { what: library.name().into(), usable, text });
    }
    if let Ok((major, minor)) = compiler_version() {
        findings.push(Finding {
            what: "kernel compiler".into(),
            usable: true,
            text: format!("NVRTC {major}.{minor}"),
        });
    }
    let folder = kernel_cache();
    let text = folder.as_ref().map_or("no place for it: compiled at every start".to_owned(), |folder| {
        let count = std::fs::read_dir(folder).map_or(0, Iterator::count);
        format!("{} ({count} files)", folder.display())
    });
    findings.push(Finding { what: "kernel cache".into(), usable: folder.is_some(), text });
    match Device::count() {
        Ok(0) => findings.push(Finding {
            what: "cuda".into(),
            usable: false,
            text: "the driver sees no GPU".into(),
        }),
        Ok(count) => findings.extend((0..count).map(gpu)),
        Err(error) => findings.push(Finding { what: "cuda".into(), usable: false, text: error.to_string() }),
    }
    findings
}

fn gpu(number: usize) -> Finding {
    let what = format!("cuda:{number}");
    let described = open(number).and_then(|device| {
        let (free, total) = device.memory()?;
        let facts = device.facts().clone();
        let (major, minor) = facts.capability;
        Ok(format!(
            "{}, compute capability {major}.{minor}, {} multiprocessors, {:.1} of {:.1} GiB free",
            facts.name,
            facts.multiprocessors,
            gib(free),
            gib(total)
        ))
    });
    match described {
        Ok(text) => Finding { what, usable: true, text },
        Err(error) => Finding { what, usable: false, text: error.to_string() },
    }
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}
