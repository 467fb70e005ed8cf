//! Checks of the repository itself, so that its rules hold without anyone remembering them.
//!
//! Every rule is a function from a [`Tree`] (paths and contents) to [`Finding`]s; the tests break each rule in a
//! small tree of their own, and `tests/repository.rs` applies all of them to this repository.

mod finding;
mod layers;
mod rust_code;
mod tidy;
mod tree;

pub use finding::Finding;
pub use tree::Tree;

/// Applies every rule; an empty answer means that the tree keeps them all.
///
/// Findings come sorted by path, then line.
pub fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = layers::check(tree);
    findings.extend(tidy::check(tree));
    findings.sort();
    findings
}

/// The files over the size limit with the reason each is allowed, or why it is not, one sentence per file.
pub fn large_files(tree: &Tree) -> Vec<String> {
    tidy::size::listing(tree)
}
