//! `cargo run -p xtask -- check`: the repository's own rules, one line per broken one.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::Tree;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments != ["check"] {
        bail!("usage: cargo run -p xtask -- check");
    }
    let tree = Tree::of_checkout(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
    let findings = xtask::check(&tree);
    let mut out = std::io::stdout().lock();
    for file in xtask::large_files(&tree) {
        writeln!(out, "large: {file}")?;
    }
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    if findings.is_empty() {
        writeln!(out, "layers and tidiness: all rules kept")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{} broken rules", findings.len())?;
    Ok(ExitCode::FAILURE)
}
