//! What can be wrong with a trace or with the place it is written to.

use std::io;

use thiserror::Error;

/// A trace that cannot be read or written; lines count from 1.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The source failed.
    #[error("reading line {line} of the trace: {source}")]
    Read {
        /// The line that was being read.
        line: u64,
        /// What the source said.
        source: io::Error,
    },
    /// The sink failed; the trace ends here, and the writer takes nothing more.
    #[error("writing line {line} of the trace: {source}; the trace ends here")]
    Write {
        /// The line that was being written.
        line: u64,
        /// What the sink said.
        source: io::Error,
    },
    /// An event came after the sink had failed; `dropped` counts such events, this one included.
    #[error(
        "the trace's sink failed before; {dropped} events dropped since, free space and start a new trace"
    )]
    Stopped {
        /// Events dropped since the sink failed.
        dropped: u64,
    },
    /// A line is longer than the format allows.
    #[error("line {line} of the trace is longer than {limit} bytes; split its arrays over several events")]
    LineTooLong {
        /// The line.
        line: u64,
        /// Bytes allowed.
        limit: usize,
    },
    /// The last line has no line feed and is not an event: the writer was cut off.
    #[error("line {line} of the trace is cut off; the events before it are whole")]
    CutOff {
        /// The line.
        line: u64,
    },
    /// A line is not JSON, or not an event of this version.
    #[error("line {line} of the trace is malformed: {source}")]
    Malformed {
        /// The line.
        line: u64,
        /// What the JSON parser said; its column is a byte of the line.
        source: serde_json::Error,
    },
    /// A second header: two traces were joined, or two runs wrote to one file.
    #[error("line {line} begins the trace of another run: give each run a file of its own")]
    AnotherRun {
        /// The line.
        line: u64,
    },
    /// The trace has a version that this reader does not know.
    #[error(
        "the trace has version {found}, this program reads up to {supported}; use the newer program that wrote it"
    )]
    Version {
        /// The version in the header.
        found: u64,
        /// The newest version that is read.
        supported: u32,
    },
    /// A well-formed line breaks a rule of the format.
    #[error("line {line} of the trace: {field}: expected {expected}, got {got}")]
    Invalid {
        /// The line.
        line: u64,
        /// The field that breaks a rule.
        field: &'static str,
        /// What the rule allows.
        expected: String,
        /// What the field holds.
        got: String,
    },
}
