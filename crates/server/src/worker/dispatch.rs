//! Whose each output is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dropcap_engine::{FinishReason, Output, SequenceId};
use tokio::sync::mpsc;

use super::{Event, Job};
use crate::metrics::Metrics;

/// The sequences that run or wait, and who reads them.
#[derive(Debug, Default)]
pub(super) struct Jobs(HashMap<SequenceId, Reader>);

#[derive(Debug)]
struct Reader {
    number: usize,
    events: mpsc::UnboundedSender<(usize, Event)>,
    ended: Arc<[AtomicBool]>,
    arrived: Instant,
    last_token: Option<Instant>,
}

impl Jobs {
    /// Remembers the sequences of a job, in the order of its prompts.
    pub(super) fn add(&mut self, job: Job, ids: Vec<SequenceId>) {
        for (number, id) in ids.into_iter().enumerate() {
            let (events, ended, arrived) = (job.events.clone(), job.ended.clone(), job.arrived);
            self.0.insert(id, Reader { number, events, ended, arrived, last_token: None });
        }
    }

    /// Sequences that nobody reads any more, and those whose texts have ended.
    pub(super) fn ended(&self) -> Vec<(SequenceId, FinishReason)> {
        let over = |(&id, reader): (&SequenceId, &Reader)| {
            if reader.events.is_closed() {
                return Some((id, FinishReason::Cancelled));
            }
            let ended = reader.ended.get(reader.number)?.load(Ordering::Acquire);
            ended.then_some((id, FinishReason::Stop))
        };
        self.0.iter().filter_map(over).collect()
    }

    /// Passes an output on to whoever reads it.
    pub(super) fn tell(&mut self, output: Output, metrics: &Metrics) {
        let (id, event) = match output {
            Output::Prompt { id, log_probs, .. } => (id, Event::Prompt(log_probs)),
            Output::Token { id, token, log_prob } => (id, Event::Token(token, log_prob)),
            Output::Finished(finished) => (finished.id, Event::Finished(finished)),
            Output::Failed { id, error } => (id, Event::Failed(error)),
        };
        let Some(reader) = self.0.get_mut(&id) else { return };
        let is_over = match &event {
            Event::Token(..) => {
                let now = Instant::now();
                metrics.token(reader.arrived, reader.last_token.replace(now), now);
                false
            }
            Event::Finished(finished) => {
                metrics.finished(reader.arrived, finished);
                true
            }
            Event::Failed(error) => {
                metrics.failed(error);
                true
            }
            Event::Accepted | Event::Refused(_) | Event::Prompt(_) => false,
        };
        // Nobody may read it any more; the next step ends it.
        let _ = reader.events.send((reader.number, event));
        if is_over {
            self.0.remove(&id);
        }
    }
}
