use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The files of a repository: path from the root (with `/`) to contents.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    files: BTreeMap<String, Vec<u8>>,
}

impl Tree {
    /// Reads what git tracks below `root` and what it would add (untracked, not ignored).
    ///
    /// # Errors
    /// When `root` is no git checkout or a file cannot be read.
    pub fn of_checkout(root: &Path) -> Result<Self> {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("git could not be started; the checks need it to know which files are tracked")?;
        if !listed.status.success() {
            bail!(
                "git ls-files failed in {}: {}",
                root.display(),
                String::from_utf8_lossy(&listed.stderr).trim()
            );
        }
        let mut tree = Self::default();
        for path in listed.stdout.split(|&byte| byte == 0).filter(|path| !path.is_empty()) {
            let path = String::from_utf8(path.to_vec()).context("a tracked file's name is not UTF-8")?;
            match std::fs::read(root.join(&path)) {
                Ok(contents) => tree.insert(&path, contents),
                // Deleted in the working tree but still in the index.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("could not read {path}")),
            }
        }
        Ok(tree)
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, path: &str, contents: impl Into<Vec<u8>>) {
        self.files.insert(path.to_owned(), contents.into());
    }

    /// Every path with its size in bytes, in order.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = (&str, usize)> {
        self.files.iter().map(|(path, contents)| (path.as_str(), contents.len()))
    }

    /// Every file that is UTF-8 text, in order.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter_map(|(path, contents)| Some((path.as_str(), std::str::from_utf8(contents).ok()?)))
    }

    /// The text of one file, or `None` where there is none.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        std::str::from_utf8(self.files.get(path)?).ok()
    }
}

/// A tree of the given files, for tests.
#[cfg(test)]
pub(crate) fn tree<const N: usize>(files: [(&str, &str); N]) -> Tree {
    let mut tree = Tree::default();
    for (path, contents) in files {
        tree.insert(path, contents);
    }
    tree
}
