//! Rules about files: their size, their names, their lines, their crates' lints.

mod code;
mod lines;
mod lints;
mod names;
pub(crate) mod size;

use crate::{Finding, Tree};

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    [size::check, names::check, lines::check, code::check, lints::check]
        .into_iter()
        .flat_map(|rule| rule(tree))
        .collect()
}

/// The part of the name after the last dot, or an empty text.
fn extension(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

/// Whether a file holds code that people wrote.
fn is_source(path: &str) -> bool {
    ["rs", "cu", "cuh", "py", "sh"].contains(&extension(path)) || path.starts_with(".ci/")
}
