//! The requests of the hub's protocol.

use ureq::http::{HeaderMap, Response, Uri};
use ureq::{Agent, Body};

use super::HubError;
use super::id::RepoId;
use super::options::HubOptions;
use super::redirect::{Endpoint, encode, follow};
use super::retry::Failure;
use super::status::{Asked, header};
use super::token::HubToken;

const MOST_REDIRECTS: usize = 8;

/// Asks one hub about one repository.
pub(super) struct Client<'a> {
    agent: Agent,
    endpoint: Endpoint,
    bearer: Option<Bearer>,
    pub(super) options: &'a HubOptions,
    pub(super) model: &'a RepoId,
}

/// Holds the token, so it does not print.
struct Bearer(String);

/// One attempt at one address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) url: &'a str,
    /// The file it is about; `None` for the listing.
    pub(super) file: Option<&'a str>,
    pub(super) want: Want,
    /// Counted from 1.
    pub(super) attempt: u32,
}

/// What a question wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// The bytes from this one on, wherever they are.
    BytesFrom(u64),
    /// What the hub itself says about the file: redirects away from it are not followed.
    Headers,
}

impl<'a> Client<'a> {
    pub(super) fn new(options: &'a HubOptions, model: &'a RepoId) -> Result<Self, HubError> {
        let patience = &options.patience;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here: the client's own rule sends the token to any port of the same
            // host.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(options.proxy.as_ref().map(|proxy| proxy.inner.clone()))
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.silence))
            .timeout_per_read(Some(patience.silence))
            // Sizes are compared, so no body may come compressed.
            .accept_encoding("identity")
            .user_agent(concat!("dropcap/", env!("CARGO_PKG_VERSION")))
            .build();
        let endpoint = Endpoint::new(options.endpoint())?;
        let bearer = options.token.as_ref().map(HubToken::bearer).transpose()?.map(Bearer);
        Ok(Self { agent: config.into(), endpoint, bearer, options, model })
    }

    /// The address of the listing, with the sizes and hashes of the files.
    pub(super) fn listing_url(&self) -> String {
        let revision = encode(self.options.revision(), false);
        format!("{}/api/models/{}/revision/{revision}?blobs=true", self.endpoint.as_str(), self.model)
    }

    /// The address of a file.
    pub(super) fn file_url(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint.as_str(), self.model, encode(file, true))
    }

    /// The answer, if it is a success or, for [`Want::Headers`], leads away from the hub.
    pub(super) fn ask(&self, question: Question<'_>) -> Result<Response<Body>, Failure> {
        let Question { url, want, attempt, .. } = question;
        let bad = |reason: &str| HubError::BadReply { url: url.to_owned(), reason: reason.to_owned() };
        let mut at: Uri = url.parse().map_err(|_| bad("its address is not well formed"))?;
        for _ in 0..=MOST_REDIRECTS {
            let response = self.send(&at, want).map_err(|error| unreachable(&at, &error, attempt))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if !status.is_redirection() {
                return Err(self.refused(question, &at, status.as_u16(), response.headers()));
            }
            let location = header(response.headers(), "location").unwrap_or("");
            let next = follow(&at, location).ok_or_else(|| bad("it redirects to where it may not"))?;
            if want == Want::Headers && !self.endpoint.owns(&next) {
                return Ok(response);
            }
            at = next;
        }
        Err(bad("it redirects without end").into())
    }

    fn send(&self, at: &Uri, want: Want) -> Result<Response<Body>, ureq::Error> {
        let mut request = if want == Want::Headers { self.agent.head(at) } else { self.agent.get(at) };
        if let Some(Bearer(bearer)) = self.bearer.as_ref().filter(|_| self.endpoint.owns(at)) {
            request = request.header("authorization", bearer);
        }
        match want {
            Want::Headers | Want::BytesFrom(0) => {}
            Want::BytesFrom(first) => request = request.header("range", format!("bytes={first}-")),
        }
        request.call()
    }

    fn refused(&self, question: Question<'_>, at: &Uri, status: u16, headers: &HeaderMap) -> Failure {
        let url = question.url;
        if matches!(status, 401 | 403 | 404) && !self.endpoint.owns(at) {
            // A signed address has run out; the hub gives a new one.
            return Failure::passing(HubError::UnexpectedStatus { url: url.to_owned(), status });
        }
        let asked = Asked {
            model: self.model,
            revision: self.options.revision(),
            file: question.file,
            endpoint: self.endpoint.as_str(),
            token_sent: self.options.token.is_some(),
        };
        asked.refused(status, headers, url, question.attempt)
    }
}

/// Never with the address that was asked last: that may be signed.
fn unreachable(at: &Uri, error: &ureq::Error, attempt: u32) -> Failure {
    let reason = match error {
        ureq::Error::Io(error) => error.kind().to_string(),
        ureq::Error::HostNotFound => "the host's name is not known".to_owned(),
        ureq::Error::Timeout(which) => format!("no answer in time, {which}"),
        ureq::Error::Rustls(error) => format!("no secure connection: {error}"),
        ureq::Error::ConnectProxyFailed(_) => "the proxy refused".to_owned(),
        ureq::Error::Protocol(_) => "the answer is not HTTP or broke off".to_owned(),
        _ => "the connection failed".to_owned(),
    };
    let scheme = at.scheme_str().unwrap_or("http");
    let url = format!("{scheme}://{}", at.authority().map_or("", |authority| authority.as_str()));
    let url = url.rsplit_once('@').map_or(url.clone(), |(_, host)| format!("{scheme}://{host}"));
    Failure::passing(HubError::Unreachable { url, reason, attempts: attempt })
}
