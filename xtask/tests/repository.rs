//! The rules applied to this repository, so that `cargo test --workspace` enforces them.

use std::path::Path;

use xtask::Tree;

#[test]
fn the_repository_keeps_its_own_rules() {
    let tree = Tree::of_checkout(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    let findings: Vec<String> = xtask::check(&tree).iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn the_whole_repository_was_read() {
    let tree = Tree::of_checkout(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    let mut broken = tree.clone();
    broken.insert(
        "crates/kernels/Cargo.toml",
        "[package]\nname = \"dropcap-kernels\"\n[dependencies]\ndropcap-cli = \"1\"\n",
    );
    assert!(xtask::check(&broken).len() > xtask::check(&tree).len());
}
