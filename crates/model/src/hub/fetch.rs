//! Several files side by side.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::HubError;
use super::client::Client;
use super::download::{Download, is_whole};
use super::layout::RepoCache;
use super::listing::{Listing, RemoteFile};

/// Makes sure that each of `names` is in the snapshot of the listing's commit; the first error ends the rest.
pub(super) fn fetch(
    client: &Client<'_>,
    repo: &RepoCache,
    listing: &Listing,
    names: &[String],
) -> Result<(), HubError> {
    let mut missing: Vec<RemoteFile> = Vec::new();
    for name in names {
        let Some(sibling) = listing.files.get(name) else {
            let (model, revision) = (client.model.to_string(), client.options.revision().to_owned());
            return Err(HubError::MissingFile { model, revision, file: name.clone() });
        };
        let file = client.describe(&listing.commit, sibling)?;
        if !is_whole(&repo.snapshot(&listing.commit).join(name), &file) {
            missing.push(file);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let stop = AtomicBool::new(false);
    let next = AtomicUsize::new(0);
    let first_error = Mutex::new(None);
    let work = || {
        while let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let download = Download { client, repo, commit: &listing.commit, stop: &stop };
            if let Err(error) = download.run(file) {
                stop.store(true, Ordering::Relaxed);
                first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    };
    let threads = client.options.patience.connections.clamp(1, missing.len());
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    first_error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}
