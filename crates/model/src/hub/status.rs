//! What a status means, said with what was asked for.

use std::time::Duration;

use ureq::http::HeaderMap;

use super::HubError;
use super::id::RepoId;
use super::retry::Failure;

/// What a request was about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) model: &'a RepoId,
    pub(super) revision: &'a str,
    pub(super) file: Option<&'a str>,
    pub(super) endpoint: &'a str,
    pub(super) token_sent: bool,
}

impl Asked<'_> {
    /// The failure that `status`, which is not a success, stands for.
    ///
    /// The hub answers 401 for a repository that does not exist to everybody without a token, and its header
    /// `X-Error-Code` tells the kinds of 404 apart; its text is not repeated.
    pub(super) fn refused(&self, status: u16, headers: &HeaderMap, url: &str, attempt: u32) -> Failure {
        let model = self.model.to_string();
        let endpoint = self.endpoint.to_owned();
        let revision = self.revision.to_owned();
        let token_sent = self.token_sent;
        let url = url.to_owned();
        let code = header(headers, "x-error-code").unwrap_or("");
        Failure::Final(match (status, code) {
            (408 | 429 | 500..=599, _) => {
                let seconds = header(headers, "retry-after").and_then(|text| text.trim().parse().ok());
                let error = HubError::Busy { url, status, attempts: attempt };
                return Failure::Passing { error: Box::new(error), after: seconds.map(Duration::from_secs) };
            }
            (401, "RepoNotFound") if token_sent => HubError::RepoNotFound { model, endpoint },
            (401, _) => HubError::Unauthorized { model, endpoint, token_sent },
            (403, _) => HubError::Forbidden { model, endpoint, token_sent },
            (404, "RepoNotFound") => HubError::RepoNotFound { model, endpoint },
            (404, "RevisionNotFound") => HubError::RevisionNotFound { model, revision, endpoint },
            (404, _) => match self.file {
                Some(file) => HubError::FileNotFound { model, revision, file: file.to_owned(), endpoint },
                None => HubError::RepoOrRevisionNotFound { model, revision, endpoint },
            },
            _ => HubError::UnexpectedStatus { url, status },
        })
    }
}

/// A header's text, if it is text.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
