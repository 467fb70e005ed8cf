//! A crate may depend only on crates of lower layers; crates of one layer do not see each other.

use toml::{Table, Value};

use crate::{Finding, Tree};

/// The layer of every crate, by its folder in `crates/`.
const LAYERS: &[(&str, u8)] = &[
    ("files", 0),
    ("scores", 0),
    ("mutation", 0),
    ("kernels", 1),
    ("cache", 2),
    ("trace", 2),
    ("weights", 2),
    ("policy", 3),
    ("methods", 4),
    ("model", 4),
    ("engine", 5),
    ("train", 5),
    ("eval", 6),
    ("inspect", 6),
    ("compress", 6),
    ("server", 7),
    ("cli", 8),
];

/// Packages are named for their folder.
const PREFIX: &str = "dropcap-";

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts() {
        let Some(folder) = path.strip_prefix("crates/").and_then(|rest| rest.strip_suffix("/Cargo.toml"))
        else {
            continue;
        };
        match text.parse::<Table>() {
            Ok(manifest) => check_crate(tree, path, folder, &manifest, &mut findings),
            Err(error) => {
                findings.push(Finding::in_file(path, format!("is not valid TOML: {}", error.message())))
            }
        }
    }
    findings
}

fn layer(folder: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == folder).map(|(_, layer)| *layer)
}

fn check_crate(tree: &Tree, path: &str, folder: &str, manifest: &Table, findings: &mut Vec<Finding>) {
    let Some(own) = layer(folder) else {
        findings.push(Finding::in_file(path, "this crate has no layer; give it one in xtask/src/layers.rs"));
        return;
    };
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    if name != Some(&format!("{PREFIX}{folder}")) {
        findings.push(Finding::in_file(
            path,
            format!("the package is to be named {PREFIX}{folder}, as its folder"),
        ));
    }
    for dependency in dependencies(tree, manifest) {
        let Some(other) = dependency.strip_prefix(PREFIX) else { continue };
        match layer(other) {
            Some(lower) if lower < own => {}
            Some(upper) => findings.push(Finding::in_file(
                path,
                format!("layer {own} may not depend on {dependency} of layer {upper}: only lower layers are allowed"),
            )),
            None => findings.push(Finding::in_file(path, format!("depends on {dependency}, which has no layer"))),
        }
    }
}

/// The packages that a manifest depends on, whether for the library, its build, its tests or one platform, under
/// their real names.
fn dependencies(tree: &Tree, manifest: &Table) -> Vec<String> {
    const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = std::iter::once(manifest).chain(platforms.filter_map(Value::as_table));
    let workspace = workspace_dependencies(tree);
    let mut names = Vec::new();
    for table in tables {
        for (key, value) in KINDS.iter().filter_map(|kind| table.get(*kind)?.as_table()).flatten() {
            let inherited = value.get("workspace").and_then(Value::as_bool) == Some(true);
            let described = if inherited { workspace.get(key).unwrap_or(value) } else { value };
            names.push(described.get("package").and_then(Value::as_str).unwrap_or(key).to_owned());
        }
    }
    names
}

fn workspace_dependencies(tree: &Tree) -> Table {
    let root = tree.text("Cargo.toml").and_then(|text| text.parse::<Table>().ok());
    let found = root.as_ref().and_then(|root| root.get("workspace")?.get("dependencies")?.as_table());
    found.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree;

    fn manifest(folder: &str, rest: &str) -> (String, String) {
        (format!("crates/{folder}/Cargo.toml"), format!("[package]\nname = \"dropcap-{folder}\"\n{rest}"))
    }

    fn findings(folder: &str, rest: &str) -> Vec<Finding> {
        let (path, text) = manifest(folder, rest);
        let root = "[workspace.dependencies]\ndropcap-cache = { path = \"crates/cache\" }\n\
                    hidden = { package = \"dropcap-engine\", path = \"crates/engine\" }\n";
        check(&tree([("Cargo.toml", root), (&path, &text)]))
    }

    #[test]
    fn a_lower_layer_is_allowed() {
        assert_eq!(findings("policy", "[dependencies]\ndropcap-cache.workspace = true\nserde = \"1\"\n"), []);
    }

    #[test]
    fn a_higher_layer_is_refused() {
        let found = findings("cache", "[dependencies]\ndropcap-policy = { path = \"../policy\" }\n");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].message.contains("layer 2 may not depend on dropcap-policy of layer 3"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn the_same_layer_is_refused() {
        assert_eq!(findings("model", "[dependencies]\ndropcap-methods.workspace = true\n").len(), 1);
    }

    #[test]
    fn tests_builds_and_platforms_are_no_way_around() {
        for table in [
            "dev-dependencies",
            "build-dependencies",
            "target.'cfg(unix)'.dependencies",
            "target.x.dev-dependencies",
        ] {
            let found =
                findings("cache", &format!("[{table}]\ndropcap-engine = {{ path = \"../engine\" }}\n"));
            assert_eq!(found.len(), 1, "[{table}]");
        }
    }

    #[test]
    fn renaming_a_dependency_is_no_way_around() {
        assert_eq!(
            findings("cache", "[dependencies]\nx = { package = \"dropcap-engine\", version = \"1\" }\n")
                .len(),
            1
        );
        assert_eq!(findings("cache", "[dependencies]\nhidden.workspace = true\n").len(), 1);
    }

    #[test]
    fn a_crate_without_a_layer_is_refused() {
        assert_eq!(findings("novel", "").len(), 1);
        assert_eq!(findings("cli", "[dependencies]\ndropcap-novel = \"1\"\n").len(), 1);
    }

    #[test]
    fn a_package_is_named_for_its_folder() {
        let text = "[package]\nname = \"dropcap-kernels\"\n";
        assert_eq!(check(&tree([("crates/cli/Cargo.toml", text)])).len(), 1);
    }

    #[test]
    fn a_broken_manifest_is_a_finding() {
        assert_eq!(check(&tree([("crates/cli/Cargo.toml", "[package")])).len(), 1);
    }
}
