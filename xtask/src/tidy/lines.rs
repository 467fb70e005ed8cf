//! Rules that look at one line at a time, in code and in prose.

use super::{extension, is_source};
use crate::rust_code::words;
use crate::{Finding, Tree};

/// Marks of unfinished work. Written in two halves, or this file would break its own rule.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
];

/// Folders that exist on one machine only.
const MACHINE_FOLDERS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts() {
        let written = is_source(path) || ["md", "toml", "yml", "yaml"].contains(&extension(path));
        for (index, line) in text.lines().enumerate() {
            let mut report = |message: String| findings.push(Finding::at(path, index + 1, message));
            if let Some(folder) = machine_folder(line) {
                report(format!(
                    "names {folder}, a folder of one machine: write the path from the repository's root"
                ));
            }
            if !written {
                continue;
            }
            if line.contains('\t') {
                report("has a tab: use spaces".to_owned());
            }
            if line.trim_end() != line {
                report("ends in white space: take it off".to_owned());
            }
            if let Some(mark) = is_source(path).then(|| unfinished(line)).flatten() {
                report(format!("says {mark}: finish it, or write down elsewhere what is missing"));
            }
        }
    }
    findings
}

fn unfinished(line: &str) -> Option<&'static str> {
    let is_marked = |mark: &str| match mark.strip_suffix('!') {
        Some(name) => words(line).any(|(at, word)| word == name && line[at + word.len()..].starts_with('!')),
        None => words(line).any(|(_, word)| word == mark),
    };
    UNFINISHED.iter().copied().find(|mark| is_marked(mark))
}

/// A machine's folder in the line, unless it is the middle of a longer path or of an address.
fn machine_folder(line: &str) -> Option<&'static str> {
    let is_absolute = |at: usize| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_.-~/}".contains(c))
    };
    MACHINE_FOLDERS.iter().copied().find(|folder| line.match_indices(folder).any(|(at, _)| is_absolute(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    fn count(path: &str, text: &str) -> usize {
        check(&tree([(path, text)])).len()
    }

    #[test]
    fn tabs_and_trailing_white_space_are_refused() {
        assert_eq!(count("a.rs", "fn a() {}\n"), 0);
        assert_eq!(count("a.rs", "fn a() {}\t// b\n"), 1);
        assert_eq!(count("a.md", "text \n"), 1);
        assert_eq!(count("a.txt", "text \n"), 0);
    }

    #[test]
    fn unfinished_work_is_refused() {
        for mark in UNFINISHED {
            assert_eq!(count("a.py", &format!("# {mark} later\n")), 1, "{mark}");
        }
        assert_eq!(count("a.rs", &format!("let {}s = 1;\n", UNFINISHED[0].to_lowercase())), 0);
        assert_eq!(count("a.rs", &format!("fn {}() {{}}\n", UNFINISHED[3].trim_end_matches('!'))), 0);
    }

    #[test]
    fn a_path_of_one_machine_is_refused() {
        for folder in MACHINE_FOLDERS {
            assert_eq!(count("a.json", &format!("\"{folder}x\"\n")), 1, "{folder}");
            assert_eq!(count("a.md", &format!("{folder}x\n")), 1, "{folder}");
            assert_eq!(count("a.md", &format!("see https://example.org{folder}x and crates{folder}x\n")), 0);
        }
    }
}
