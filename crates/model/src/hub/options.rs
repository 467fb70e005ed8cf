//! What a caller decides about a download.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::progress::HubProgress;
use super::token::HubToken;
use super::{DEFAULT_ENDPOINT, DEFAULT_REVISION, HubError};

/// How a model is resolved; the default asks the public hub for `main`, without a token, and names no cache.
///
/// [`HubOptions::from_env`] fills it from the environment. Nothing else here reads the environment.
#[derive(Debug, Clone, Default)]
pub struct HubOptions {
    /// Branch, tag or commit; `None` is `main`.
    pub revision: Option<String>,
    /// Sent to the endpoint as a bearer token; `None` sends none.
    pub token: Option<HubToken>,
    /// The hub's address; `None` is the public hub.
    pub endpoint: Option<String>,
    /// The directory that holds `models--org--name`; it must be set to resolve a hub id.
    pub cache_dir: Option<PathBuf>,
    /// Set: no request is made and the cache must do.
    pub offline: Option<OfflineCause>,
    /// A proxy for every request.
    pub proxy: Option<HubProxy>,
    /// Told while files arrive.
    pub progress: HubProgress,
    /// How long to wait and how often to try.
    pub patience: Patience,
}

impl HubOptions {
    /// The revision asked for.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    /// The hub's address.
    pub fn endpoint(&self) -> &str {
        self.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT)
    }
}

/// What turned the network off; its text stands in the error when the cache lacks a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OfflineCause {
    /// The command line.
    Flag,
    /// An environment variable.
    Variable(&'static str),
}

impl fmt::Display for OfflineCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "--offline",
            Self::Variable(name) => name,
        })
    }
}

/// The address of a proxy; its password is not printed.
#[derive(Clone)]
pub struct HubProxy {
    pub(super) inner: ureq::Proxy,
}

impl HubProxy {
    /// Takes an address such as `http://user:password@proxy.example:3128`.
    ///
    /// # Errors
    /// [`HubError::BadProxy`]; the error does not repeat the address.
    pub fn new(address: &str) -> Result<Self, HubError> {
        let inner = ureq::Proxy::new(address).map_err(|_| HubError::BadProxy)?;
        Ok(Self { inner })
    }
}

impl fmt::Debug for HubProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HubProxy(hidden)")
    }
}

/// Bounds of waiting; the defaults suit a person on a poor line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Attempts of one request, at least 1; a file's count starts again whenever much of it arrived in
    /// between.
    pub attempts: u32,
    /// Pause after the first failure; it doubles after each further one.
    pub first_pause: Duration,
    /// No pause is longer, whatever the server asks for.
    pub longest_pause: Duration,
    /// For one connection to be made.
    pub connect: Duration,
    /// For an answer to begin, and for each further piece of it.
    pub silence: Duration,
    /// How long another process may hold a file's lock without anything arriving.
    pub lock: Duration,
    /// Files that are fetched side by side, at least 1.
    pub connections: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            lock: Duration::from_secs(600),
            connections: 4,
        }
    }
}
