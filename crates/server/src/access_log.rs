//! Where lines of the access log go: through a thread of their own, so that a sink that takes its time holds no request up.

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait for the sink; more are dropped and counted.
const LINES: usize = 4096;

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog(Option<SyncSender<Entry>>);

#[derive(Debug)]
enum Entry {
    Line(String),
    /// Everything before it has been written.
    Mark(SyncSender<()>),
}

impl AccessLog {
    /// A log that is written to a sink.
    ///
    /// # Errors
    /// A system without threads.
    pub fn to(mut sink: Box<dyn Write + Send>) -> std::io::Result<Self> {
        let (sender, entries) = sync_channel(LINES);
        let write = move || {
            for entry in entries {
                match entry {
                    // A line that cannot be written costs nobody anything.
                    Entry::Line(line) => drop(sink.write_all(line.as_bytes())),
                    Entry::Mark(reached) => drop(reached.send(())),
                }
            }
        };
        std::thread::Builder::new().name("access log".to_owned()).spawn(write)?;
        Ok(Self(Some(sender)))
    }

    /// No log.
    pub fn none() -> Self {
        Self(None)
    }

    /// Hands a line over; false where too many wait.
    pub(crate) fn write(&self, line: String) -> bool {
        self.0.as_ref().is_none_or(|sender| sender.try_send(Entry::Line(line)).is_ok())
    }

    /// Waits until the lines so far have been written, or no longer than that.
    pub(crate) fn flush(&self, patience: Duration) {
        let (reached, mark) = sync_channel(1);
        if let Some(sender) = &self.0
            && sender.try_send(Entry::Mark(reached)).is_ok()
        {
            let _ = mark.recv_timeout(patience);
        }
    }
}
