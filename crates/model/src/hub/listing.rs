//! What a repository holds at one commit.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::HubError;
use super::client::{Client, Question, Want};
use super::progress::HubEvent;
use super::retry::{Attempts, Failure};
use super::revision::is_commit;
use super::status::header;

/// A listing of a hundred thousand files is about 20 MB.
const LARGEST_LISTING: u64 = 64 << 20;

/// The files of one commit, by name.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: BTreeMap<String, Sibling>,
}

/// What is known about a file before it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    /// In bytes.
    pub(super) size: u64,
    /// The name of its blob.
    pub(super) etag: String,
    /// In lower-case hexadecimal; the hub knows it only of large files.
    pub(super) sha256: Option<String>,
}

impl RemoteFile {
    pub(super) fn wrong_size(&self, got: u64) -> HubError {
        HubError::WrongSize { file: self.name.clone(), expected: self.size, got }
    }
}

#[derive(Debug, Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// One file as the listing describes it; a mirror may leave out all but the name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sibling {
    #[serde(rename = "rfilename")]
    name: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Debug, Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

impl Client<'_> {
    /// Lists the repository at the revision asked for, in at most `attempts` attempts.
    pub(super) fn listing(&self, attempts: u32) -> Result<Listing, HubError> {
        let mut attempts = Attempts::new(&self.options.patience, attempts);
        loop {
            let failure = match self.list_once(attempts.number()) {
                Ok(listing) => return Ok(listing),
                Err(failure) => failure,
            };
            attempts.pause(failure, |reason, pause| {
                self.options.progress.tell(&HubEvent::Retrying { file: None, reason, pause });
            })?;
        }
    }

    fn list_once(&self, attempt: u32) -> Result<Listing, Failure> {
        let url = self.listing_url();
        let mut response = self.ask(Question { url: &url, file: None, want: Want::BytesFrom(0), attempt })?;
        let bytes = response.body_mut().with_config().limit(LARGEST_LISTING).read_to_vec();
        let bytes = bytes.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => {
                Failure::Final(bad(&url, "the listing is larger than 64 MiB"))
            }
            _ => Failure::passing(HubError::Unreachable {
                url: url.clone(),
                reason: "it broke off".to_owned(),
                attempts: attempt,
            }),
        })?;
        let info: Info =
            serde_json::from_slice(&bytes).map_err(|error| bad(&url, &format!("not a listing: {error}")))?;
        if !is_commit(&info.sha) {
            return Err(bad(&url, "the commit is not 40 hexadecimal digits").into());
        }
        let files = info.siblings.into_iter().map(|sibling| (sibling.name.clone(), sibling)).collect();
        Ok(Listing { commit: info.sha, files })
    }

    /// What is known about `sibling`; asks the file's own address if the listing did not say.
    pub(super) fn describe(&self, commit: &str, sibling: &Sibling) -> Result<RemoteFile, HubError> {
        let name = sibling.name.clone();
        let url = self.file_url(commit, &name);
        let file = match (&sibling.lfs, sibling.size, &sibling.blob_id) {
            (Some(large), ..) => {
                let sha256 = large.sha256.to_lowercase();
                RemoteFile { name, size: large.size, etag: sha256.clone(), sha256: Some(sha256) }
            }
            (None, Some(size), Some(etag)) => RemoteFile { name, size, etag: etag.clone(), sha256: None },
            _ => self.describe_by_head(&url, name)?,
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if file.etag.is_empty() || file.etag.len() > 128 || !file.etag.bytes().all(plain) {
            return Err(bad(&url, "its ETag cannot name a file"));
        }
        if file.sha256.as_ref().is_some_and(|sha256| !is_sha256(sha256)) {
            return Err(bad(&url, "its SHA-256 is not 64 hexadecimal digits"));
        }
        Ok(file)
    }

    fn describe_by_head(&self, url: &str, name: String) -> Result<RemoteFile, HubError> {
        let mut attempts = Attempts::new(&self.options.patience, self.options.patience.attempts);
        loop {
            let attempt = attempts.number();
            match self.ask(Question { url, file: Some(&name), want: Want::Headers, attempt }) {
                Ok(response) => {
                    let headers = response.headers();
                    let linked = header(headers, "x-linked-etag");
                    let etag =
                        linked.or_else(|| header(headers, "etag")).ok_or_else(|| bad(url, "no ETag"))?;
                    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
                    let size = header(headers, "x-linked-size").or_else(|| header(headers, "content-length"));
                    let size = size.and_then(|size| size.parse().ok()).ok_or_else(|| bad(url, "no size"))?;
                    let sha256 = linked.is_some().then(|| etag.clone()).filter(|etag| is_sha256(etag));
                    return Ok(RemoteFile { name, size, etag, sha256 });
                }
                Err(failure) => attempts.pause(failure, |reason, pause| {
                    self.options.progress.tell(&HubEvent::Retrying { file: Some(&name), reason, pause });
                })?,
            }
        }
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn bad(url: &str, reason: &str) -> HubError {
    HubError::BadReply { url: url.to_owned(), reason: reason.to_owned() }
}
