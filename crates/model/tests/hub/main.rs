//! Claims about the hub, against a hub on 127.0.0.1. No test reads the user's environment or leaves this
//! machine.

#![cfg(test)]

mod access;
mod faults;
mod layout;
mod offline;
mod refusals;
mod server;
mod together;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dropcap_model::hub::{HubError, HubOptions, HubToken, Origin, Patience, ResolvedModel, resolve};
use server::{Hub, MODEL};

/// Must never be seen in an error.
const TOKEN: &str = "hf_veryverysecret";

/// A hub and an empty cache.
struct Setting {
    hub: Hub,
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        Self { hub: Hub::start(), folder: tempfile::tempdir().unwrap() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn repo(&self) -> PathBuf {
        self.cache().join("models--tiny-org--tiny-model")
    }

    fn options(&self) -> HubOptions {
        options(&self.hub.endpoint, &self.cache())
    }

    fn resolve(&self) -> ResolvedModel {
        resolve(MODEL, &self.options()).unwrap()
    }

    /// The error of a download that must fail, as text; it never holds the token or a signature.
    fn fails(&self, options: &HubOptions) -> (HubError, String) {
        fails(MODEL, options)
    }

    /// The files below the repository's folder in the cache.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.repo(), &self.repo(), &mut found);
        found.sort();
        found
    }
}

fn options(endpoint: &str, cache: &Path) -> HubOptions {
    let patience = Patience {
        attempts: 3,
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(5),
        connect: Duration::from_secs(5),
        silence: Duration::from_secs(10),
        lock: Duration::from_secs(30),
        connections: 3,
    };
    HubOptions {
        endpoint: Some(endpoint.to_owned()),
        cache_dir: Some(cache.to_owned()),
        token: Some(HubToken::new(TOKEN)),
        patience,
        ..HubOptions::default()
    }
}

fn fails(model: &str, options: &HubOptions) -> (HubError, String) {
    let error = resolve(model, options).unwrap_err();
    let text = error.to_string();
    let all = format!("{text} {error:?} {options:?}");
    assert!(!all.contains(TOKEN) && !all.contains("s3cret"), "a secret in {all}");
    assert!(!text.ends_with('.'), "{text}");
    (error, text)
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.file_type().unwrap().is_dir() {
            walk(root, &entry.path(), found);
        } else {
            found.push(entry.path().strip_prefix(root).unwrap().display().to_string());
        }
    }
}

fn commit(model: &ResolvedModel) -> &str {
    match &model.origin {
        Origin::Hub { commit, .. } => commit,
        other => panic!("not from the hub: {other:?}"),
    }
}
