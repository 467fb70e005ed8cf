//! What a download tells while it runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// One thing that happened during a download; files come side by side, so events of several files interleave.
#[derive(Debug)]
#[non_exhaustive]
pub enum HubEvent<'a> {
    /// Another process is downloading this file; this one waits for it.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// Bytes are there, from this run or from an earlier one. Goes back to a smaller number if a file starts
    /// again.
    Received {
        /// The file.
        file: &'a str,
        /// Bytes present.
        bytes: u64,
        /// Its size in bytes.
        of: u64,
    },
    /// An attempt failed and is repeated after a pause.
    Retrying {
        /// The file, or `None` for the listing of the repository.
        file: Option<&'a str>,
        /// What the attempt met.
        reason: &'a str,
        /// How long the pause is.
        pause: Duration,
    },
    /// The file is whole, checked and published.
    Finished {
        /// The file.
        file: &'a str,
    },
}

type Told = dyn Fn(&HubEvent<'_>) + Send + Sync;

/// The function that is told; called from the threads that download, so it must be quick.
#[derive(Clone, Default)]
pub struct HubProgress {
    told: Option<Arc<Told>>,
}

impl HubProgress {
    /// Tells `told` of every event.
    pub fn new(told: impl Fn(&HubEvent<'_>) + Send + Sync + 'static) -> Self {
        Self { told: Some(Arc::new(told)) }
    }

    pub(super) fn tell(&self, event: &HubEvent<'_>) {
        if let Some(told) = &self.told {
            told(event);
        }
    }
}

impl fmt::Debug for HubProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.told.is_some() { "HubProgress(set)" } else { "HubProgress(none)" })
    }
}
