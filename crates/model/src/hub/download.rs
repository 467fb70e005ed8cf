//! One file, from the hub into the cache.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::HubError;
use super::client::{Client, Question, Want};
use super::layout::RepoCache;
use super::listing::RemoteFile;
use super::lock;
use super::partial::Partial;
use super::progress::HubEvent;
use super::retry::{Attempts, Failure};
use super::status::header;

/// An attempt that brought this much was no failure worth counting: a long file may break off many times.
const WORTH_IT: u64 = 16 << 20;
const PIECE: usize = 256 << 10;

/// What a download needs beside the file.
pub(super) struct Download<'a> {
    pub(super) client: &'a Client<'a>,
    pub(super) repo: &'a RepoCache,
    pub(super) commit: &'a str,
    /// Set when another file of the model failed, and this one is no longer wanted.
    pub(super) stop: &'a AtomicBool,
}

#[derive(Debug, PartialEq, Eq)]
enum Arrived {
    Whole,
    Stopped,
}

impl Download<'_> {
    /// Fetches `file` if its blob is not there yet, and publishes it.
    pub(super) fn run(&self, file: &RemoteFile) -> Result<(), HubError> {
        let blob = self.repo.blob(&file.etag);
        if !is_whole(&blob, file) {
            let options = self.client.options;
            let incomplete = self.repo.incomplete(&file.etag);
            let waiting = || options.progress.tell(&HubEvent::Waiting { file: &file.name });
            let lock = self.repo.lock(&file.etag);
            let held = lock::take(&lock, &file.name, &incomplete, options.patience.lock, waiting)?;
            // Whoever held the lock before may have brought it.
            if !is_whole(&blob, file) && self.bring(file, &incomplete, &blob)? == Arrived::Stopped {
                return Ok(());
            }
            drop(held);
        }
        self.repo.point(self.commit, &file.name, &file.etag)?;
        self.client.options.progress.tell(&HubEvent::Finished { file: &file.name });
        Ok(())
    }

    fn bring(&self, file: &RemoteFile, incomplete: &Path, blob: &Path) -> Result<Arrived, HubError> {
        let mut partial = Partial::open(incomplete.to_owned(), file)?;
        let patience = &self.client.options.patience;
        let mut attempts = Attempts::new(patience, patience.attempts);
        loop {
            let before = partial.length();
            match self.receive(file, &mut partial, attempts.number()) {
                Ok(Arrived::Stopped) => return Ok(Arrived::Stopped),
                Ok(Arrived::Whole) => match partial.check() {
                    Ok(()) => return partial.finish(blob).map(|()| Arrived::Whole),
                    // The bytes of an earlier run may be the bad ones.
                    Err(_) if partial.carried() => partial.restart()?,
                    Err(error) => {
                        partial.discard();
                        return Err(error);
                    }
                },
                Err(Failure::Final(error @ HubError::WrongSize { .. })) => {
                    partial.discard();
                    return Err(error);
                }
                Err(failure) => {
                    if partial.length() >= before.saturating_add(WORTH_IT) {
                        attempts.forget();
                    }
                    attempts.pause(failure, |reason, pause| {
                        let event = HubEvent::Retrying { file: Some(&file.name), reason, pause };
                        self.client.options.progress.tell(&event);
                    })?;
                }
            }
        }
    }

    /// One attempt at what is still missing.
    fn receive(
        &self,
        file: &RemoteFile,
        partial: &mut Partial<'_>,
        attempt: u32,
    ) -> Result<Arrived, Failure> {
        if partial.is_full() {
            return Ok(Arrived::Whole);
        }
        let url = self.client.file_url(self.commit, &file.name);
        let want = Want::BytesFrom(partial.length());
        let asked = self.client.ask(Question { url: &url, file: Some(&file.name), want, attempt });
        if let Err(Failure::Final(HubError::UnexpectedStatus { status: 416, .. })) = asked {
            // The server has less than what is here already: what is here is not its file.
            partial.restart()?;
            return Err(interrupted(file, partial, attempt, "the server has no such range"));
        }
        let response = asked?;
        let headers = response.headers();
        let declared = if response.status() == 206 {
            let range = header(headers, "content-range").and_then(content_range);
            let (start, total) =
                range.ok_or_else(|| interrupted(file, partial, attempt, "no usable Content-Range"))?;
            if start != partial.length() {
                return Err(interrupted(file, partial, attempt, "the server sent another range than asked"));
            }
            total
        } else {
            // The server ignores ranges: from the beginning.
            partial.restart()?;
            header(headers, "content-length").and_then(|length| length.trim().parse().ok())
        };
        if let Some(got) = declared.filter(|declared| *declared != file.size) {
            return Err(file.wrong_size(got).into());
        }
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; PIECE];
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Arrived::Stopped);
            }
            match body.read(&mut piece) {
                Ok(0) if partial.is_full() => return Ok(Arrived::Whole),
                Ok(0) => return Err(interrupted(file, partial, attempt, "the connection closed")),
                Ok(count) => partial.add(&piece[..count])?,
                Err(error) => return Err(interrupted(file, partial, attempt, &error.kind().to_string())),
            }
            let event = HubEvent::Received { file: &file.name, bytes: partial.length(), of: file.size };
            self.client.options.progress.tell(&event);
        }
    }
}

/// Whether the blob is there at its full size; a shorter one is what a full disk leaves behind.
pub(super) fn is_whole(path: &Path, file: &RemoteFile) -> bool {
    fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == file.size)
}

fn interrupted(file: &RemoteFile, partial: &Partial<'_>, attempts: u32, reason: &str) -> Failure {
    let error = HubError::Interrupted {
        file: file.name.clone(),
        expected: file.size,
        got: partial.length(),
        reason: reason.to_owned(),
        attempts,
    };
    Failure::passing(error)
}

/// The first byte and, unless it is `*`, the total of `bytes first-last/total`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((first.parse().ok()?, total))
}
