//! When to try again, and when to stop.

use std::thread::sleep;
use std::time::Duration;

use super::HubError;
use super::options::Patience;

/// How one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The next attempt would fail alike.
    Final(HubError),
    /// The next attempt may succeed.
    Passing {
        /// What to report if there is none.
        error: Box<HubError>,
        /// How long the server asks to be left alone.
        after: Option<Duration>,
    },
}

impl Failure {
    pub(super) fn passing(error: HubError) -> Self {
        Self::Passing { error: Box::new(error), after: None }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// Counts the attempts of one request.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    patience: &'a Patience,
    most: u32,
    failed: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(patience: &'a Patience, most: u32) -> Self {
        Self { patience, most: most.max(1), failed: 0 }
    }

    /// The number of the attempt that comes next, from 1.
    pub(super) fn number(&self) -> u32 {
        self.failed + 1
    }

    /// What came before was worth it: the count starts again.
    pub(super) fn forget(&mut self) {
        self.failed = 0;
    }

    /// Sleeps before the next attempt, or says that there is none.
    pub(super) fn pause(
        &mut self,
        failure: Failure,
        tell: impl FnOnce(&str, Duration),
    ) -> Result<(), HubError> {
        let (error, after) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { error, after } => (*error, after),
        };
        self.failed += 1;
        if self.failed >= self.most {
            return Err(error);
        }
        let doubled = self.patience.first_pause.saturating_mul(1 << (self.failed - 1).min(16));
        let pause = after.unwrap_or(doubled).max(doubled).min(self.patience.longest_pause);
        tell(&error.to_string(), pause);
        sleep(pause);
        Ok(())
    }
}
