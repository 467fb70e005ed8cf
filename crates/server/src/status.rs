//! Whether the server takes requests.

use std::sync::atomic::{AtomicU8, Ordering};

/// Shared by all threads: what the health route says.
#[derive(Debug, Default)]
pub struct Status(AtomicU8);

/// How a server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The model is being read.
    Loading,
    /// Requests are served.
    Ready,
    /// What runs goes on; nothing new is taken.
    Draining,
    /// The engine has failed.
    Failed,
}

impl State {
    const ALL: [Self; 4] = [Self::Loading, Self::Ready, Self::Draining, Self::Failed];

    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ok",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }

    /// Why nothing is served, in words.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Loading => "the model is being loaded",
            Self::Ready => "the server is ready",
            Self::Draining => "the server is shutting down",
            Self::Failed => "the engine has failed, and the server is ending",
        }
    }
}

impl Status {
    /// How the server stands.
    pub fn get(&self) -> State {
        State::ALL.get(usize::from(self.0.load(Ordering::Acquire))).copied().unwrap_or(State::Failed)
    }

    /// Moves on; a state is never left for an earlier one.
    pub fn advance(&self, state: State) {
        let number = State::ALL.iter().position(|&other| other == state).unwrap_or_default();
        self.0.fetch_max(number as u8, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_server_never_says_that_it_is_ready() {
        let status = Status::default();
        assert_eq!(status.get(), State::Loading);
        status.advance(State::Failed);
        status.advance(State::Ready);
        assert_eq!(status.get(), State::Failed);
    }
}
