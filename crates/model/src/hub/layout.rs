//! Where things lie in the cache that is shared with Python.

use std::fs;
use std::path::{Path, PathBuf};

use super::id::RepoId;
use super::revision::is_commit;

/// The paths of one repository; nothing here touches the disk but [`RepoCache::commit_of`].
#[derive(Debug)]
pub(super) struct RepoCache {
    cache: PathBuf,
    folder: String,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, id: &RepoId) -> Self {
        Self { cache: cache.to_owned(), folder: id.folder() }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(etag)
    }

    /// The unfinished blob; Python resumes the same file.
    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    pub(super) fn reference(&self, revision: &str) -> PathBuf {
        self.root().join("refs").join(revision)
    }

    /// A marker that the commit has no such file.
    pub(super) fn absent(&self, commit: &str, file: &str) -> PathBuf {
        self.root().join(".no_exist").join(commit).join(file)
    }

    /// The lock of one blob; Python takes the same one, with the same call.
    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.cache.join(".locks").join(&self.folder).join(format!("{etag}.lock"))
    }

    /// The commit that `revision` meant when it was last asked for.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.reference(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }
}
