//! Stopping on request: finish the step, save, and leave with a code of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit code of a run that was asked to stop and saved its state: try again later (`EX_TEMPFAIL`).
pub const STOPPED: u8 = 75;

/// Whether somebody asked the run to stop; clones ask and answer together.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// A request that only [`Stop::ask`] makes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request that SIGTERM and SIGINT make as well.
    ///
    /// The second signal ends the process at once, with 128 and the signal's number as its exit code.
    ///
    /// # Errors
    /// The operating system's refusal to install a handler.
    pub fn on_signals() -> io::Result<Self> {
        let stop = Self::new();
        for signal in [SIGINT, SIGTERM] {
            // Handlers run in the order of their registration: the first signal finds the flag down.
            flag::register_conditional_shutdown(signal, 128 + signal, stop.asked.clone())?;
            flag::register(signal, stop.asked.clone())?;
        }
        Ok(stop)
    }

    /// Asks the run to stop after its step.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Whether the run is to stop after its step.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_hear_the_same_request() {
        let stop = Stop::new();
        let other = stop.clone();
        assert!(!other.is_asked());
        stop.ask();
        assert!(other.is_asked());
    }
}
