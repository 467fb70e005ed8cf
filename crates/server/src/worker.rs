//! The engine's own thread: takes jobs, runs steps, hands what comes out to the thread that passes it on.
//!
//! Nobody else touches the engine. Jobs come through a bounded channel between steps; what concerns one job goes to its
//! own channel, which holds no more than the job may generate, so that a slow reader never holds a step up.

mod dispatch;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Instant;

use dropcap_engine::{
    Engine, EngineError, FinishReason, Finished, Output, Request, SequenceId, TokenLogProb,
};
use tokio::sync::mpsc;

use crate::metrics::Metrics;
use dispatch::{Reader, Told};

/// Jobs that may wait for the end of a step; the engine's own queue is behind it.
pub(crate) const CHANNEL: usize = 256;

/// Several prompts of one request, which are taken together or not at all.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) requests: Vec<Request>,
    /// Gets everything that concerns it, with the number of the prompt; when nobody reads any more, the job ends.
    pub(crate) events: mpsc::UnboundedSender<(usize, Event)>,
    /// Set for a prompt whose text has ended, at a stop string.
    pub(crate) ended: Arc<[AtomicBool]>,
    /// When the request came.
    pub(crate) arrived: Instant,
}

/// What happens to a job.
#[derive(Debug)]
pub(crate) enum Event {
    /// It is queued; comes once, before all others.
    Accepted,
    /// It is not taken; comes alone.
    Refused(EngineError),
    /// Log-probabilities of prompt tokens, from the first on.
    Prompt(Vec<TokenLogProb>),
    /// A new token.
    Token(u32, Option<TokenLogProb>),
    /// It is over.
    Finished(Finished),
    /// It was given up.
    Failed(EngineError),
}

/// Where jobs go.
#[derive(Debug, Clone)]
pub(crate) struct Inbox(mpsc::Sender<Job>);

impl Inbox {
    /// Hands a job over; gives it back where too many wait, or the engine is gone.
    pub(crate) fn send(&self, job: Job) -> Result<(), mpsc::error::TrySendError<Job>> {
        self.0.try_send(job)
    }
}

/// A channel for jobs.
pub(crate) fn channel() -> (Inbox, mpsc::Receiver<Job>) {
    let (sender, receiver) = mpsc::channel(CHANNEL);
    (Inbox(sender), receiver)
}

/// Runs an engine until all inboxes are gone and nothing runs, and says whether it is whole then; a failed one ends at
/// once. Everything that came out has been passed on by then.
pub(crate) fn run(engine: Engine, jobs: mpsc::Receiver<Job>, metrics: &Metrics) -> bool {
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let dispatch = thread::Builder::new().name("dispatch".to_owned());
        let begun = dispatch.spawn_scoped(scope, move || dispatch::run(told, metrics));
        // It ends with the sender that this worker drops, also when the engine panics.
        begun.is_ok() && Worker { engine, readers: HashMap::new(), tell, metrics }.run(jobs)
    })
}

struct Worker<'a> {
    engine: Engine,
    /// Of the sequences that run or wait.
    readers: HashMap<SequenceId, Arc<Reader>>,
    tell: Sender<Told>,
    metrics: &'a Metrics,
}

impl Worker<'_> {
    fn run(mut self, mut inbox: mpsc::Receiver<Job>) -> bool {
        self.observe();
        loop {
            if self.engine.is_idle() {
                match inbox.blocking_recv() {
                    Some(job) => self.take(job),
                    None => return true,
                }
            }
            while let Ok(job) = inbox.try_recv() {
                self.take(job);
            }
            let mut outputs = self.end_the_unread();
            match self.engine.step() {
                Ok(new) => outputs.extend(new),
                Err(_) => return false,
            }
            for id in outputs.iter().filter_map(dispatch::over) {
                self.readers.remove(&id);
            }
            // Nobody hears of what is passed to a thread that is gone.
            if self.tell.send(Told::Came(Instant::now(), outputs)).is_err() {
                return false;
            }
            self.observe();
            // A failed step has ended everything, and all that come later would fail too.
            if self.engine.has_failed() {
                return false;
            }
        }
    }

    /// Queues all prompts of a job, or none.
    fn take(&mut self, mut job: Job) {
        let mut ids = Vec::with_capacity(job.requests.len());
        for request in std::mem::take(&mut job.requests) {
            match self.engine.submit(request) {
                Ok(id) => ids.push(id),
                Err(error) => {
                    for id in ids {
                        let _ = self.engine.finish(id, FinishReason::Cancelled);
                    }
                    self.metrics.refused(&error);
                    let _ = job.events.send((0, Event::Refused(error)));
                    return;
                }
            }
        }
        let _ = job.events.send((0, Event::Accepted));
        let reader = |(number, id): (usize, SequenceId)| {
            let (events, ended, arrived) = (job.events.clone(), job.ended.clone(), job.arrived);
            (id, Arc::new(Reader { number, events, ended, arrived }))
        };
        let readers: Vec<_> = ids.into_iter().enumerate().map(reader).collect();
        self.readers.extend(readers.iter().cloned());
        // A thread that is gone is noticed with the next step.
        let _ = self.tell.send(Told::Queued(readers));
    }

    /// Frees the prompts that nobody waits for any more, and those whose texts have ended.
    fn end_the_unread(&mut self) -> Vec<Output> {
        let ended = self.readers.iter().filter_map(|(&id, reader)| Some((id, reader.end()?)));
        let ended: Vec<(SequenceId, FinishReason)> = ended.collect();
        // A failed engine ends its sequences with the next step.
        let finished = ended.into_iter().filter_map(|(id, reason)| self.engine.finish(id, reason).ok()?);
        finished.map(Output::Finished).collect()
    }

    fn observe(&self) {
        self.metrics.observe(&self.engine);
    }
}

/// Marks a prompt's text as ended.
pub(crate) fn end(ended: &[AtomicBool], number: usize) {
    if let Some(flag) = ended.get(number) {
        flag.store(true, Ordering::Release);
    }
}
