//! What ran the benchmark: processor, threads, commit.

use serde::Serialize;

/// Where a table comes from.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Commit that the binary was built from, with `-dirty` where what was built differed from it.
    pub commit: &'static str,
    /// The processor's own name.
    pub processor: String,
    /// Threads used.
    pub threads: usize,
    /// Seconds to read the checkpoint and pack its weights; none for random weights.
    pub load_seconds: Option<f64>,
    /// What a plain read loop over these threads reads.
    pub read_bytes_per_second: f64,
}

/// The name that the processor gives itself, where the system tells.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or(std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
