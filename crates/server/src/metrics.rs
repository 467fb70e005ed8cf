//! What Prometheus is told: names that Kubernetes' inference gateway and dashboards for vLLM read, and our own.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use dropcap_engine::{Engine, EngineError, Finished};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Ratio = Gauge<f64, AtomicU64>;

/// One label and its value.
type Label = [(&'static str, String); 1];

/// All counters of a server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    running: Gauge,
    waiting: Gauge,
    cache_usage: Ratio,
    held_bytes: Gauge,
    limit_bytes: Gauge,
    peak_bytes: Gauge,
    prompt_tokens: Counter,
    generated_tokens: Counter,
    ends: Family<Label, Counter>,
    refusals: Family<Label, Counter>,
    not_finite: Counter,
    logical_entries: Counter,
    kept_entries: Counter,
    asked_tokens: Counter,
    cached_tokens: Counter,
    prefix_bytes: Gauge,
    keep_ratio: Histogram,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    /// Open connections.
    pub(crate) connections: Gauge,
    responses: Family<Label, Counter>,
    /// Lines of the access log that were dropped.
    pub(crate) lost_lines: Counter,
}

/// Buckets in seconds, as vLLM's of the same names.
const FIRST_TOKEN: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 40.0];
const BETWEEN_TOKENS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5];
const WHOLE: [f64; 13] = [0.1, 0.3, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 240.0, 960.0];
const SHARES: [f64; 10] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

impl Metrics {
    pub(crate) fn new(model: &str) -> Self {
        let labels = [("model_name".into(), model.to_owned().into())];
        let mut registry = Registry::with_labels(labels.into_iter());
        let mut gauges = |name: &str, help: &str| -> Gauge {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let running = gauges("vllm:num_requests_running", "Sequences in the batch");
        let waiting = gauges("vllm:num_requests_waiting", "Sequences in the queue");
        let held_bytes = gauges("dropcap_kv_bytes_held", "Bytes of the pages that sequences hold");
        let limit_bytes = gauges("dropcap_kv_bytes_limit", "Bytes that all pages may take");
        let peak_bytes = gauges("dropcap_kv_bytes_peak", "The most bytes ever held");
        let prefix_bytes =
            gauges("dropcap_prefix_bytes", "Bytes of pages kept for texts with an equal beginning");
        let connections = gauges("dropcap_http_connections", "Open connections");
        let mut counters = |name: &str, help: &str| -> Counter {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let prompt_tokens = counters("vllm:prompt_tokens", "Prompt tokens of requests that are over");
        let generated_tokens = counters("vllm:generation_tokens", "Generated tokens");
        let not_finite = counters("dropcap_nonfinite_logits", "Requests ended by logits that are no numbers");
        let logical_entries =
            counters("dropcap_kv_entries_logical", "Entries that sequences would have held at their end");
        let kept_entries = counters("dropcap_kv_entries_kept", "Entries that sequences held at their end");
        let asked_tokens = counters("vllm:prefix_cache_queries", "Prompt tokens that could have been shared");
        let cached_tokens =
            counters("vllm:prefix_cache_hits", "Prompt tokens that other requests had worked out before");
        let lost_lines = counters("dropcap_log_lines_lost", "Lines that the access log was too slow for");
        let mut families = |name: &str, help: &str| -> Family<Label, Counter> {
            let family = Family::default();
            registry.register(name, help, family.clone());
            family
        };
        let ends = families("vllm:request_success", "Sequences that are over");
        let refusals = families("dropcap_admission_rejected", "Requests that were refused");
        let responses = families("dropcap_http_responses", "Responses");
        let mut histograms = |name: &str, help: &str, buckets: &[f64]| -> Histogram {
            let histogram = Histogram::new(buckets.iter().copied());
            registry.register(name, help, histogram.clone());
            histogram
        };
        let first_token =
            histograms("vllm:time_to_first_token_seconds", "From a request to its first token", &FIRST_TOKEN);
        let between_tokens =
            histograms("vllm:inter_token_latency_seconds", "From a token to the next", &BETWEEN_TOKENS);
        let whole = histograms("vllm:e2e_request_latency_seconds", "From a request to its end", &WHOLE);
        let keep_ratio = histograms("dropcap_kv_keep_ratio", "Share of a sequence's entries kept", &SHARES);
        let cache_usage = Ratio::default();
        registry.register("vllm:kv_cache_usage_perc", "Share of the cache that is held", cache_usage.clone());
        Self {
            registry: Mutex::new(registry),
            running,
            waiting,
            cache_usage,
            held_bytes,
            limit_bytes,
            peak_bytes,
            prompt_tokens,
            generated_tokens,
            ends,
            refusals,
            not_finite,
            logical_entries,
            kept_entries,
            asked_tokens,
            cached_tokens,
            prefix_bytes,
            keep_ratio,
            first_token,
            between_tokens,
            whole,
            connections,
            responses,
            lost_lines,
        }
    }

    /// Everything, as Prometheus reads it.
    pub(crate) fn text(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }

    /// How the engine stands between two steps.
    pub(crate) fn observe(&self, engine: &Engine) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.running.set(number(engine.running()));
        self.waiting.set(number(engine.waiting()));
        self.prefix_bytes.set(number(engine.prefix_bytes()));
        let Ok(usage) = engine.usage() else { return };
        self.held_bytes.set(number(usage.held_bytes));
        self.peak_bytes.set(number(usage.peak_bytes));
        if let Some(limit) = usage.limit_bytes {
            self.limit_bytes.set(number(limit));
            self.cache_usage.set(usage.held_bytes as f64 / limit.max(1) as f64);
        }
    }

    /// A token came out.
    pub(crate) fn token(&self, arrived: Instant, last: Option<Instant>, now: Instant) {
        self.generated_tokens.inc();
        match last {
            None => self.first_token.observe((now - arrived).as_secs_f64()),
            Some(last) => self.between_tokens.observe((now - last).as_secs_f64()),
        }
    }

    /// A sequence is over.
    pub(crate) fn finished(&self, arrived: Instant, finished: &Finished) {
        let reason = finished.reason.as_str().to_owned();
        self.ends.get_or_create(&[("finished_reason", reason)]).inc();
        self.prompt_tokens.inc_by(finished.prompt_tokens as u64);
        self.asked_tokens.inc_by(finished.prompt_tokens as u64);
        self.cached_tokens.inc_by(finished.cached_tokens as u64);
        self.logical_entries.inc_by(finished.report.logical_entries);
        self.kept_entries.inc_by(finished.report.live_entries);
        if finished.report.logical_entries > 0 {
            self.keep_ratio.observe(finished.report.keep_ratio());
        }
        self.whole.observe(arrived.elapsed().as_secs_f64());
    }

    /// A sequence was given up.
    pub(crate) fn failed(&self, error: &EngineError) {
        if matches!(error, EngineError::NonFiniteLogits { .. }) {
            self.not_finite.inc();
        }
        self.ends.get_or_create(&[("finished_reason", "error".to_owned())]).inc();
    }

    /// A request was refused by the engine.
    pub(crate) fn refused(&self, error: &EngineError) {
        self.refused_for(match error {
            EngineError::QueueFull { .. } => "queue_full",
            EngineError::OutOfMemory(_) => "memory",
            EngineError::PromptTooLong { .. } | EngineError::Together { .. } => "context_length",
            _ => "invalid",
        });
    }

    /// A request was refused.
    pub(crate) fn refused_for(&self, reason: &str) {
        self.refusals.get_or_create(&[("reason", reason.to_owned())]).inc();
    }

    /// A response went out.
    pub(crate) fn responded(&self, status: u16) {
        self.responses.get_or_create(&[("status", status.to_string())]).inc();
    }
}
