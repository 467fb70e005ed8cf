//! Writes a trace, line by line.

use std::io::{BufWriter, Write};

use serde::Serialize;

use crate::order::Order;
use crate::{Event, MAX_LINE_BYTES, TraceError, TraceHeader};

/// Writes a trace that [`crate::TraceReader`] accepts: events that break a rule are refused and leave no mark.
///
/// Lines are buffered: call [`TraceWriter::flush`] where a reader should see them and [`TraceWriter::finish`] at
/// the end, because dropping the writer swallows the sink's last error. Once the sink has failed (a full disk),
/// every further event is [`TraceError::Stopped`] and only counted, so that a server can keep serving.
#[derive(Debug)]
pub struct TraceWriter<W: Write> {
    sink: BufWriter<W>,
    order: Order,
    line: Vec<u8>,
    lines: u64,
    stopped: bool,
    dropped: u64,
}

#[derive(Serialize)]
struct HeaderLine<'a> {
    header: &'a TraceHeader,
}

impl<W: Write> TraceWriter<W> {
    /// Starts a trace with its header.
    pub fn new(sink: W, header: &TraceHeader) -> Result<Self, TraceError> {
        let order = Order::new(header).map_err(|refusal| refusal.at(1))?;
        let sink = BufWriter::with_capacity(1 << 16, sink);
        let mut writer = Self { sink, order, line: Vec::new(), lines: 0, stopped: false, dropped: 0 };
        writer.encode(&HeaderLine { header })?;
        writer.put()?;
        Ok(writer)
    }

    /// Writes one event, or says why not.
    ///
    /// [`TraceError::Invalid`] and [`TraceError::LineTooLong`] refuse this event only; after
    /// [`TraceError::Write`] every event is [`TraceError::Stopped`].
    pub fn write(&mut self, event: &Event) -> Result<(), TraceError> {
        if self.stopped {
            self.dropped += 1;
            return Err(TraceError::Stopped { dropped: self.dropped });
        }
        // The length first: a line too long must not have moved the order on.
        self.encode(event)?;
        self.order.admit(event).map_err(|refusal| refusal.at(self.lines + 1))?;
        self.put()
    }

    /// Hands everything written so far to the sink.
    pub fn flush(&mut self) -> Result<(), TraceError> {
        if self.stopped {
            return Err(TraceError::Stopped { dropped: self.dropped });
        }
        let flushed = self.sink.flush();
        self.surface(flushed)
    }

    /// Flushes and gives the sink back.
    pub fn finish(mut self) -> Result<W, TraceError> {
        self.flush()?;
        let line = self.lines;
        self.sink.into_inner().map_err(|failed| TraceError::Write { line, source: failed.into_error() })
    }

    /// Events lost because the sink had failed before they came.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn encode(&mut self, value: &impl Serialize) -> Result<(), TraceError> {
        let line = self.lines + 1;
        self.line.clear();
        serde_json::to_writer(&mut self.line, value)
            .map_err(|source| TraceError::Malformed { line, source })?;
        self.line.push(b'\n');
        if self.line.len() > MAX_LINE_BYTES {
            self.line = Vec::new();
            return Err(TraceError::LineTooLong { line, limit: MAX_LINE_BYTES });
        }
        Ok(())
    }

    fn put(&mut self) -> Result<(), TraceError> {
        let written = self.sink.write_all(&self.line);
        self.lines += 1;
        self.surface(written)
    }

    /// A sink that failed may have taken half a line; anything after it would be unreadable.
    fn surface(&mut self, done: std::io::Result<()>) -> Result<(), TraceError> {
        done.map_err(|source| {
            self.stopped = true;
            TraceError::Write { line: self.lines, source }
        })
    }
}
