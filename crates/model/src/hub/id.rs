//! The grammar of a hub id.

use std::fmt;
use std::str::FromStr;

use super::HubError;

const LONGEST_ID: usize = 96;

/// A hub id `org/name` that is safe in an address and as a directory name.
///
/// Both halves are letters, digits, `-`, `_` and `.`, neither begin nor end with `-` or `.`, and hold neither
/// `--` nor `..` (the cache writes `/` as `--`); 96 characters at most. Source: `validate_repo_id` of
/// `huggingface_hub`, except that the old ids without an organisation are refused: the hub gives each of
/// those models an organisation too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId {
    text: String,
}

impl RepoId {
    /// The id as `org/name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The directory name of the repository in the cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.text.replace('/', "--"))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for RepoId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        match flaw(text) {
            None => Ok(Self { text: text.to_owned() }),
            Some(reason) => Err(HubError::BadModel { given: text.chars().take(200).collect(), reason }),
        }
    }
}

fn flaw(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.starts_with(['/', '.', '~']) {
        return Some("there is no such directory");
    }
    if text.len() > LONGEST_ID {
        return Some("it is longer than 96 characters");
    }
    let Some((org, name)) = text.split_once('/') else {
        return Some("an id has two parts, org/name");
    };
    for half in [org, name] {
        if half.is_empty() || half.contains('/') {
            return Some("an id has exactly two parts, org/name");
        }
        if !half.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Some("an id holds only letters, digits, `-`, `_` and `.`");
        }
        if half.starts_with(['-', '.']) || half.ends_with(['-', '.']) {
            return Some("no half of an id begins or ends with `-` or `.`");
        }
        if half.contains("--") || half.contains("..") {
            return Some("an id holds neither `--` nor `..`");
        }
    }
    name.ends_with(".git").then_some("an id does not end in .git")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_of_real_models_are_accepted() {
        for id in ["openai-community/gpt2", "Qwen/Qwen2.5-0.5B", "TinyLlama/TinyLlama_v1.1", "a/b"] {
            assert_eq!(id.parse::<RepoId>().unwrap().as_str(), id);
        }
    }

    #[test]
    fn anything_that_is_not_org_slash_name_is_refused() {
        let long = format!("a/{}", "b".repeat(96));
        for id in [
            "",
            "/",
            "gpt2",
            "../x",
            "x/..",
            "/etc/passwd",
            "a/b/c",
            "a//b",
            "a/b/",
            "/a/b",
            ".a/b",
            "a/b.",
            "-a/b",
            "a/b--c",
            "a/b..c",
            "a b/c",
            "a/b\n",
            "a\\b/c",
            "a/b?x",
            "a/b#x",
            "a/%2e%2e",
            "ä/b",
            "a/b.git",
            &long,
        ] {
            assert!(matches!(id.parse::<RepoId>(), Err(HubError::BadModel { .. })), "{id:?} was accepted");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_one_plain_directory_name(text in "[a-c./\\-_]{0,12}") {
            if let Ok(id) = text.parse::<RepoId>() {
                let folder = id.folder();
                prop_assert!(!folder.contains(['/', '\\']) && !folder.contains(".."));
                let split: Vec<&str> = folder.split("--").collect();
                prop_assert_eq!(split.len(), 3, "two ids may not share a folder");
            }
        }
    }
}
