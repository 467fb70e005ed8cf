//! A file is named for the idea in it; a name that fits everything says nothing.

use super::is_source;
use crate::{Finding, Tree};

const REFUSED: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager", "base", "v2"];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.texts().filter(|(path, _)| is_source(path)) {
        for part in path.split('/') {
            let stem = part.split('.').find(|piece| !piece.is_empty()).unwrap_or(part);
            let last = stem.rsplit(['_', '-']).next().unwrap_or(stem);
            if REFUSED.contains(&stem) || REFUSED.contains(&last) {
                let message =
                    format!("the name {part:?} says nothing about its content: name the idea in it");
                findings.push(Finding::in_file(path, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    #[test]
    fn a_name_that_says_nothing_is_refused() {
        for path in [
            "crates/a/src/utils.rs",
            "crates/a/tests/common/mod.rs",
            "runs/helpers.py",
            "crates/a/src/cache_manager.rs",
            "crates/a/src/attention_v2.cu",
            "crates/base/src/lib.rs",
        ] {
            assert_eq!(check(&tree([(path, "")])).len(), 1, "{path}");
        }
    }

    #[test]
    fn names_that_only_contain_such_a_word_are_allowed() {
        for path in ["crates/a/src/database.rs", "crates/a/src/base_rate.rs", "tests/config_v2.json"] {
            assert_eq!(check(&tree([(path, "")])), [], "{path}");
        }
    }
}
