//! The access log: one line of JSON for each request, when its response has ended. It never holds what people write.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::AccessLog;
use crate::metrics::Metrics;
use crate::service::Service;
use crate::wire::Usage;

#[derive(Serialize)]
struct Line<'a> {
    /// Milliseconds since 1970.
    time_ms: u64,
    request_id: &'a str,
    method: &'a str,
    path: &'a str,
    status: u16,
    /// Whether the response came to its end; otherwise its reader had gone.
    complete: bool,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a Usage>,
}

/// What is known of one request; the line is written when whoever answers it is done.
#[derive(Debug)]
pub(crate) struct Account {
    log: Arc<AccessLog>,
    metrics: Arc<Metrics>,
    in_flight: Arc<AtomicUsize>,
    pub(crate) id: String,
    method: String,
    path: String,
    began: Instant,
    ended: Mutex<Ended>,
}

#[derive(Debug, Default)]
struct Ended {
    status: u16,
    complete: bool,
    usage: Option<Usage>,
}

impl Account {
    pub(crate) fn new(service: &Service, id: String, method: &str, path: &str) -> Self {
        let (log, metrics, in_flight) =
            (service.log.clone(), service.metrics.clone(), service.in_flight.clone());
        in_flight.fetch_add(1, Ordering::AcqRel);
        let (method, path) = (method.to_owned(), path.to_owned());
        Self { log, metrics, in_flight, id, method, path, began: Instant::now(), ended: Mutex::default() }
    }

    /// The response has begun; `complete` where it is also over.
    pub(crate) fn respond(&self, status: u16, complete: bool) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.status = status;
        ended.complete |= complete;
    }

    /// The text is over.
    pub(crate) fn finish(&self, usage: Usage) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.complete = true;
        ended.usage = Some(usage);
    }

    /// When the request came.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let line = serde_json::to_string(&Line {
            time_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            request_id: &self.id,
            method: &self.method,
            path: &self.path,
            // What nginx calls a client that has gone before anything was said.
            status: if ended.status == 0 { 499 } else { ended.status },
            complete: ended.complete,
            duration_ms: self.began.elapsed().as_secs_f64() * 1e3,
            usage: ended.usage.as_ref(),
        });
        // Our own types are always JSON.
        if !self.log.write(line.unwrap_or_default() + "\n") {
            self.metrics.lost_lines.inc();
        }
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}
