//! Every crate takes the workspace's lints; the kernels, which need `unsafe`, state their own.

use toml::{Table, Value};

use crate::{Finding, Tree};

const KERNELS: &str = "crates/kernels/Cargo.toml";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let is_member = |path: &str| {
        path == "xtask/Cargo.toml" || (path.starts_with("crates/") && path.ends_with("/Cargo.toml"))
    };
    let mut findings = Vec::new();
    for (path, text) in tree.texts().filter(|(path, _)| is_member(path)) {
        let lints = text.parse::<Table>().ok().and_then(|manifest| manifest.get("lints").cloned());
        let stated = |group: &str, lint: &str| lints.as_ref()?.get(group)?.get(lint)?.as_str();
        if path == KERNELS {
            for (group, lint) in [("rust", "missing_docs"), ("clippy", "undocumented_unsafe_blocks")] {
                if stated(group, lint) != Some("deny") {
                    findings.push(Finding::in_file(path, format!("has to deny {group}'s lint {lint}")));
                }
            }
        } else if lints.as_ref().and_then(|lints| lints.get("workspace")).and_then(Value::as_bool)
            != Some(true)
        {
            findings
                .push(Finding::in_file(path, "has to take the workspace's lints: [lints] workspace = true"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    #[test]
    fn a_crate_without_the_lints_is_refused() {
        for path in ["crates/cache/Cargo.toml", "xtask/Cargo.toml"] {
            assert_eq!(check(&tree([(path, "[package]\nname = \"x\"\n")])).len(), 1, "{path}");
            assert_eq!(check(&tree([(path, "[lints]\nworkspace = false\n")])).len(), 1, "{path}");
            assert_eq!(check(&tree([(path, "[lints]\nworkspace = true\n")])), [], "{path}");
        }
    }

    #[test]
    fn the_kernels_state_their_own() {
        let own =
            "[lints.rust]\nmissing_docs = \"deny\"\n[lints.clippy]\nundocumented_unsafe_blocks = \"deny\"\n";
        assert_eq!(check(&tree([(KERNELS, own)])), []);
        assert_eq!(check(&tree([(KERNELS, "")])).len(), 2);
    }
}
