//! Makes finished things visible, each in one step.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use dropcap_files::{Existing, partial_path, publish_from};

use super::HubError;
use super::layout::RepoCache;

impl RepoCache {
    /// Shows a whole blob as `file` of `commit`.
    pub(super) fn point(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let pointer = self.snapshot(commit).join(file);
        let failed = |source| HubError::cache("publish", &pointer)(source);
        let folder = pointer.parent().unwrap_or(&pointer);
        fs::create_dir_all(folder).map_err(failed)?;
        let up = file.split('/').count() + 1;
        let target: PathBuf = [&*"../".repeat(up), "blobs", etag].iter().collect();
        match symlink(&target, &pointer) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map_err(failed),
        }
        if fs::read_link(&pointer).is_ok_and(|old| old == target) {
            return Ok(());
        }
        // Something else stands there: a dangling or damaged entry. The new one replaces it without a gap.
        let fresh = partial_path(&self.root().join("link"));
        symlink(&target, &fresh).and_then(|()| fs::rename(&fresh, &pointer)).map_err(failed)
    }

    /// Remembers that `revision` means `commit`.
    pub(super) fn refer(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference(revision);
        let failed = |source| HubError::cache("write", &path)(source);
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(failed)?;
        // Written beside `refs/` and not in it: Python takes every file in there for a revision.
        publish_from(&self.root(), &path, Existing::Replace, |file| file.write_all(commit.as_bytes()))?;
        Ok(())
    }

    /// Remembers that `commit` has no `file`. Only saves a request later, so a cache that refuses it is no
    /// error.
    pub(super) fn remember_absent(&self, commit: &str, file: &str) {
        let path = self.absent(commit, file);
        if path.is_file() {
            return;
        }
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, b""));
        drop(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_replaces_what_is_damaged_and_reaches_its_blob_from_any_depth() {
        let cache = tempfile::tempdir().unwrap();
        let repo = RepoCache::new(cache.path(), &"a/b".parse().unwrap());
        let commit = "0".repeat(40);
        fs::create_dir_all(repo.root().join("blobs")).unwrap();
        fs::write(repo.blob("e1"), "one").unwrap();
        fs::write(repo.blob("e2"), "two").unwrap();
        for file in ["x.json", "deep/er/x.json"] {
            for (etag, text) in [("e1", "one"), ("e1", "one"), ("e2", "two")] {
                repo.point(&commit, file, etag).unwrap();
                assert_eq!(fs::read_to_string(repo.snapshot(&commit).join(file)).unwrap(), text);
            }
        }
        repo.refer("refs/pr/1", &commit).unwrap();
        assert_eq!(repo.commit_of("refs/pr/1"), Some(commit));
        let left: Vec<_> =
            fs::read_dir(repo.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "only blobs, snapshots and refs: {left:?}");
    }
}
