//! The grammar of a revision, which becomes part of an address and of a path.

use super::HubError;

/// Accepts a branch, tag or commit that is safe as a path below `refs/`.
pub(super) fn check(revision: &str) -> Result<(), HubError> {
    let reason = if revision.is_empty() {
        "it is empty"
    } else if revision.len() > 200 {
        "it is longer than 200 bytes"
    } else if revision.chars().any(|c| c.is_control() || c.is_whitespace() || "\\~^:?*[".contains(c)) {
        "it holds a character that git does not allow in a reference"
    } else if revision.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.contains(".."))
    {
        "a part between slashes is empty, begins with a dot or holds two dots"
    } else {
        return Ok(());
    };
    Err(HubError::BadRevision { given: revision.chars().take(200).collect(), reason })
}

/// Whether `revision` is a full commit, which can never come to mean something else.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40
        && revision.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_never_leaves_refs() {
        for good in ["main", "v1.0", "refs/pr/5", "0123456789abcdef0123456789abcdef01234567", "feature/x-1"] {
            check(good).unwrap();
        }
        for bad in
            ["", "/", "..", "../x", "a/../b", "/abs", "a//b", "a/", ".hidden", "a\\b", "a b", "a\0b", "C:x"]
        {
            assert!(check(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
