//! Reads a trace, line by line, believing nothing.

use std::io::{BufRead, Read};

use serde::Deserialize;

use crate::order::Order;
use crate::{Event, MAX_LINE_BYTES, TraceError, TraceHeader, VERSION};

/// Streams the events of a trace: one line in memory at a time, every rule of the format checked.
///
/// As an iterator it gives each event once, and ends after the first error.
#[derive(Debug)]
pub struct TraceReader<R> {
    source: R,
    header: TraceHeader,
    order: Order,
    buffer: Vec<u8>,
    line: u64,
    done: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    header: TraceHeader,
}

/// The only part of the header that every version has; read first, so that a newer trace is refused for its
/// version and not for a field that this version does not know.
#[derive(Deserialize)]
struct VersionLine {
    header: VersionField,
}

#[derive(Deserialize)]
struct VersionField {
    version: u64,
}

impl<R: BufRead> TraceReader<R> {
    /// Opens a trace: reads its header and checks the version.
    pub fn new(mut source: R) -> Result<Self, TraceError> {
        let mut buffer = Vec::new();
        if !read_line(&mut source, &mut buffer, 1)? {
            return Err(TraceError::CutOff { line: 1 });
        }
        let found = parse::<VersionLine>(&buffer, 1)?.header.version;
        if !(1..=u64::from(VERSION)).contains(&found) {
            return Err(TraceError::Version { found, supported: VERSION });
        }
        let header = parse::<HeaderLine>(&buffer, 1)?.header;
        let order = Order::new(&header).map_err(|refusal| refusal.at(1))?;
        Ok(Self { source, header, order, buffer, line: 1, done: false })
    }

    /// What ran, and the bounds of all events.
    pub fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// The line of the last event given, counted from 1; the header is line 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    fn advance(&mut self) -> Result<Option<Event>, TraceError> {
        let line = self.line + 1;
        if !read_line(&mut self.source, &mut self.buffer, line)? {
            return Ok(None);
        }
        self.line = line;
        let event = match parse(&self.buffer, line) {
            Err(TraceError::Malformed { .. }) if parse::<VersionLine>(&self.buffer, line).is_ok() => {
                return Err(TraceError::AnotherRun { line });
            }
            parsed => parsed?,
        };
        self.order.admit(&event).map_err(|refusal| refusal.at(line))?;
        Ok(Some(event))
    }
}

impl<R: BufRead> Iterator for TraceReader<R> {
    type Item = Result<Event, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// Reads one line with its line feed; false at the end of the source. Memory grows with bytes that have come.
fn read_line(source: &mut impl BufRead, line: &mut Vec<u8>, number: u64) -> Result<bool, TraceError> {
    line.clear();
    // One huge line must not hold its memory for the rest of the trace.
    line.shrink_to(1 << 20);
    let read = source
        .take(MAX_LINE_BYTES as u64 + 1)
        .read_until(b'\n', line)
        .map_err(|source| TraceError::Read { line: number, source })?;
    if line.len() > MAX_LINE_BYTES {
        return Err(TraceError::LineTooLong { line: number, limit: MAX_LINE_BYTES });
    }
    Ok(read > 0)
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8], number: u64) -> Result<T, TraceError> {
    serde_json::from_slice(line).map_err(|source| {
        if source.is_eof() && !line.ends_with(b"\n") {
            TraceError::CutOff { line: number }
        } else {
            TraceError::Malformed { line: number, source }
        }
    })
}
