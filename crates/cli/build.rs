//! Tells the binary which commit it was built from, for the tables of `dropcap bench`.

use std::process::Command;

fn main() {
    // In a worktree these lie elsewhere.
    let head = ["HEAD", "logs/HEAD"].map(|file| git(&["rev-parse", "--git-path", file]));
    let sources = sources();
    for path in head.iter().flatten().chain(&sources) {
        println!("cargo::rerun-if-changed={path}");
    }
    let commit = commit(&sources).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=DROPCAP_COMMIT={commit}");
}

/// What the binary is made of.
fn sources() -> Vec<String> {
    let mut sources =
        ["../../Cargo.toml", "../../Cargo.lock", "../../models/default"].map(String::from).to_vec();
    for folder in std::fs::read_dir("..").into_iter().flatten().flatten() {
        let folder = folder.path();
        sources.extend(["Cargo.toml", "build.rs", "src"].map(|name| folder.join(name).display().to_string()));
    }
    sources.retain(|path| std::path::Path::new(path).exists());
    sources.sort();
    sources
}

/// The commit, and whether what is built differs from it.
fn commit(sources: &[String]) -> Option<String> {
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(sources.iter().map(String::as_str));
    let changes = git(&status)?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
