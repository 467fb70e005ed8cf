//! What every request needs to be answered.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use rand::RngExt;
use tokio::sync::Semaphore;

use crate::auth::Keys;
use crate::body::Bodies;
use crate::metrics::Metrics;
use crate::status::Status;
use crate::worker::Inbox;
use crate::{AccessLog, ServedModel, ServerOptions};

/// Shared by all requests.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) model: Arc<ServedModel>,
    pub(crate) inbox: Inbox,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) status: Arc<Status>,
    pub(crate) options: Arc<ServerOptions>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) log: Arc<AccessLog>,
    /// A place for each text that may be made shorter at once.
    pub(crate) compressing: Arc<Semaphore>,
    /// Requests that are being answered.
    pub(crate) in_flight: Arc<AtomicUsize>,
}

/// A name for something that was just made.
pub(crate) fn random_id(prefix: &str) -> String {
    let number: u128 = rand::rng().random();
    format!("{prefix}{number:032x}")
}
