//! Whose each output is: a thread beside the engine's passes outputs on, so that waking those who wait for them costs no step
//! any time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use dropcap_engine::{FinishReason, Output, SequenceId};
use tokio::sync::mpsc::UnboundedSender;

use super::Event;
use crate::metrics::Metrics;

/// Who reads what comes out of a sequence.
#[derive(Debug)]
pub(super) struct Reader {
    /// Which text of its request it is.
    pub(super) number: usize,
    pub(super) events: UnboundedSender<(usize, Event)>,
    pub(super) ended: Arc<[AtomicBool]>,
    pub(super) arrived: Instant,
}

impl Reader {
    /// Why its sequence is to end now, if it is: nobody reads any more, or the text has met its end.
    pub(super) fn end(&self) -> Option<FinishReason> {
        if self.events.is_closed() {
            return Some(FinishReason::Cancelled);
        }
        let ended = self.ended.get(self.number)?.load(Ordering::Acquire);
        ended.then_some(FinishReason::Stop)
    }
}

/// What happened, in its order.
#[derive(Debug)]
pub(super) enum Told {
    /// Sequences were queued.
    Queued(Vec<(SequenceId, Arc<Reader>)>),
    /// These came out, at that time.
    Came(Instant, Vec<Output>),
}

/// Passes on what happens until the engine's thread has ended.
pub(super) fn run(told: Receiver<Told>, metrics: &Metrics) {
    let mut under_way: HashMap<SequenceId, (Arc<Reader>, Option<Instant>)> = HashMap::new();
    for told in told {
        match told {
            Told::Queued(readers) => {
                under_way.extend(readers.into_iter().map(|(id, reader)| (id, (reader, None))));
            }
            Told::Came(now, outputs) => {
                for output in outputs {
                    let id = id_of(&output);
                    let Some((reader, last)) = under_way.get_mut(&id) else { continue };
                    if pass_on(output, reader, last, now, metrics) {
                        under_way.remove(&id);
                    }
                }
            }
        }
    }
}

/// The sequence that an output is of.
fn id_of(output: &Output) -> SequenceId {
    match output {
        Output::Prompt { id, .. } | Output::Token { id, .. } | Output::Failed { id, .. } => *id,
        Output::Finished(finished) => finished.id,
    }
}

/// The sequence that is over with an output, if one is.
pub(super) fn over(output: &Output) -> Option<SequenceId> {
    match output {
        Output::Finished(_) | Output::Failed { .. } => Some(id_of(output)),
        Output::Prompt { .. } | Output::Token { .. } => None,
    }
}

/// Passes an output on to its reader, and says whether the sequence is over; `last` is when its last token came.
fn pass_on(
    output: Output,
    reader: &Reader,
    last: &mut Option<Instant>,
    now: Instant,
    metrics: &Metrics,
) -> bool {
    let is_over = over(&output).is_some();
    let event = match output {
        Output::Prompt { log_probs, .. } => Event::Prompt(log_probs),
        Output::Token { token, log_prob, .. } => {
            metrics.token(reader.arrived, last.replace(now), now);
            Event::Token(token, log_prob)
        }
        Output::Finished(finished) => {
            metrics.finished(reader.arrived, &finished);
            Event::Finished(finished)
        }
        Output::Failed { error, .. } => {
            metrics.failed(&error);
            Event::Failed(error)
        }
    };
    // Nobody may read it any more; the next step ends it.
    let _ = reader.events.send((reader.number, event));
    is_over
}
