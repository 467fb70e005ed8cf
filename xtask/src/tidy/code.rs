//! Rules about what Rust code may say: `unsafe` in one crate only, and nothing that panics on bad input.

use super::extension;
use crate::rust_code::{code_only, line_of, test_ranges, words};
use crate::{Finding, Tree};

/// The one crate that may hold `unsafe`.
const KERNELS: &str = "crates/kernels/";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let test_modules: Vec<String> =
        rust_files(tree).flat_map(|(path, text)| modules_for_tests(path, &code_only(text))).collect();
    for (path, text) in rust_files(tree) {
        let code = code_only(text);
        if !path.starts_with(KERNELS) {
            for (at, _) in words(&code).filter(|(_, word)| *word == "unsafe") {
                let message = "has unsafe code, which may only stand in crates/kernels";
                findings.push(Finding::at(path, line_of(&code, at), message));
            }
        }
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let only_tests = test_modules.iter().any(|name| {
            module.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if is_library(path) && !only_tests {
            let tests = test_ranges(&code);
            let calls = code
                .match_indices(".unwrap()")
                .filter(|(at, _)| !tests.iter().any(|range| range.contains(at)));
            for (at, _) in calls {
                let message = "unwraps outside of a test: return an error that says what to do";
                findings.push(Finding::at(path, line_of(&code, at), message));
            }
        }
    }
    findings
}

fn rust_files(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    tree.texts().filter(|(path, _)| extension(path) == "rs")
}

/// Code that ships or checks, in contrast to integration tests, benches and examples.
fn is_library(path: &str) -> bool {
    let mut parts = path.split('/');
    match parts.next() {
        Some("xtask") => parts.next() == Some("src"),
        Some("crates") => parts.nth(1) == Some("src"),
        _ => false,
    }
}

/// The modules that `path` declares under `#[cfg(test)]` and keeps in files of their own, as paths without `.rs`.
fn modules_for_tests(path: &str, code: &str) -> Vec<String> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let folder = match name {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        _ => format!("{folder}/{}", name.trim_end_matches(".rs")),
    };
    let declarations = test_ranges(code).into_iter().filter(|range| code[range.end..].starts_with(';'));
    let names = declarations.filter_map(|range| match words(&code[range]).collect::<Vec<_>>()[..] {
        [.., (_, "mod"), (_, name)] => Some(format!("{folder}/{name}")),
        _ => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    #[test]
    fn unsafe_code_is_for_the_kernels() {
        let text = "fn a() {\n    unsafe { b() }\n}\n";
        assert_eq!(check(&tree([("crates/kernels/src/a.rs", text)])), []);
        let found = check(&tree([("crates/cache/tests/a.rs", text)]));
        assert_eq!((found.len(), found[0].line), (1, Some(2)));
    }

    #[test]
    fn the_word_alone_is_no_unsafe_code() {
        let text = "// unsafe\n#![forbid(unsafe_code)]\nconst A: &str = \"unsafe\";\n";
        assert_eq!(check(&tree([("crates/cache/src/a.rs", text)])), []);
    }

    #[test]
    fn an_unwrap_outside_of_tests_is_refused() {
        let found = check(&tree([("crates/cache/src/a.rs", "fn a() {\n    b().unwrap();\n}\n")]));
        assert_eq!((found.len(), found[0].line), (1, Some(2)));
        assert_eq!(check(&tree([("xtask/src/a.rs", "fn a() { b().unwrap() }")])).len(), 1);
    }

    #[test]
    fn tests_may_unwrap_and_so_may_examples_in_comments() {
        let text =
            "/// `a().unwrap()`\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { a().unwrap(); }\n}\n";
        assert_eq!(check(&tree([("crates/cache/src/a.rs", text)])), []);
        for path in ["crates/cache/tests/a.rs", "crates/cache/benches/a.rs", "xtask/tests/a.rs"] {
            assert_eq!(check(&tree([(path, "fn a() { b().unwrap() }")])), [], "{path}");
        }
    }

    #[test]
    fn a_module_for_tests_may_lie_in_a_file_of_its_own() {
        let (declaring, unwrapping) =
            ("#[cfg(test)]\npub(crate) mod oracle;\nmod real;", "fn a() { b().unwrap() }");
        for (parent, child, findings) in [
            ("crates/a/src/lib.rs", "crates/a/src/oracle.rs", 0),
            ("crates/a/src/b/mod.rs", "crates/a/src/b/oracle/mod.rs", 0),
            ("crates/a/src/b.rs", "crates/a/src/b/oracle/deep.rs", 0),
            ("crates/a/src/b.rs", "crates/a/src/b/real.rs", 1),
            ("crates/a/src/b.rs", "crates/a/src/b/oracles.rs", 1),
            ("crates/a/src/b.rs", "crates/a/src/oracle.rs", 1),
        ] {
            assert_eq!(check(&tree([(parent, declaring), (child, unwrapping)])).len(), findings, "{child}");
        }
    }
}
