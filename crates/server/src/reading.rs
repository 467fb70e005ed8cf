//! The served model as the judge of texts that are to be made shorter.
//!
//! A method asks for hundreds of short readings at once. They go through the engine's queue as prompts that generate nothing, a few
//! at a time and the next ones when those are over, so a step carries no more of them than of any other client's prompt, and texts
//! that are generated move on with every step.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dropcap_cache::KvReport;
use dropcap_compress::{CompressError, Judge, Reading, Token, Tokens, beginning};
use dropcap_engine::{EngineError, Request};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::unbounded_channel;

use crate::service::Service;
use crate::wire::Usage;
use crate::worker::{Event, Job};

/// Readings that are queued together, at most.
const TOGETHER: usize = 16;
/// Tokens of readings that are queued together, about: a single one may have more.
const TOKENS: usize = 2048;
/// How long readings that find the queue full wait, once the first of their text were taken.
const PATIENCE: Duration = Duration::from_millis(50);

/// Reads for one request, on a thread of its own, until its client has gone.
pub(crate) struct ServedJudge {
    service: Service,
    /// What stands before every text of the model.
    begin: Vec<u32>,
    salt: String,
    gone: Arc<AtomicBool>,
    read: Read,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default)]
struct Read {
    prompt_tokens: usize,
    cached_tokens: usize,
    report: KvReport,
}

/// Tells a judge that nobody waits for it any more, when it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl ServedJudge {
    /// A judge, and what tells it that its client waits.
    pub(crate) fn new(service: Service, salt: String) -> Result<(Self, Waiting), CompressError> {
        let begin = beginning(&service.model.tokenizer)?;
        let gone = Arc::new(AtomicBool::new(false));
        let waiting = Waiting(gone.clone());
        Ok((Self { service, begin, salt, gone, read: Read::default() }, waiting))
    }

    /// What the readings cost.
    pub(crate) fn usage(&self) -> Usage {
        let Read { prompt_tokens, cached_tokens, report } = self.read;
        Usage::new(prompt_tokens, 0, cached_tokens, &self.service.model.card.method, report, None)
    }

    /// Queues requests and waits for their ends, each of which has a place in `found`.
    fn together(
        &mut self,
        requests: Vec<(usize, Request)>,
        found: &mut [Vec<f32>],
    ) -> Result<(), CompressError> {
        let (places, requests): (Vec<usize>, Vec<Request>) = requests.into_iter().unzip();
        let mut events = loop {
            if self.gone.load(Ordering::Acquire) {
                return Err(CompressError::Stopped("its client has gone"));
            }
            let (sender, mut events) = unbounded_channel();
            let ended: Arc<[AtomicBool]> = places.iter().map(|_| AtomicBool::new(false)).collect();
            // Latencies are told of readings, not of the text that they are of.
            let job = Job { requests: requests.clone(), events: sender, ended, arrived: Instant::now() };
            let refused = match self.service.inbox.send(job) {
                Err(TrySendError::Closed(_)) => return Err(CompressError::Stopped("the engine has ended")),
                Err(TrySendError::Full(_)) => EngineError::QueueFull { limit: crate::worker::CHANNEL },
                Ok(()) => match events.blocking_recv() {
                    Some((_, Event::Accepted)) => break events,
                    Some((_, Event::Refused(error))) => error,
                    _ => return Err(CompressError::Stopped("the engine has failed")),
                },
            };
            // A text that has begun waits for its next turn; one that has not is turned away.
            match refused {
                EngineError::QueueFull { .. } if self.read.prompt_tokens > 0 => std::thread::sleep(PATIENCE),
                error => return Err(error.into()),
            }
        };
        let mut left = places.len();
        while left > 0 {
            let event = events.blocking_recv();
            if self.gone.load(Ordering::Acquire) {
                return Err(CompressError::Stopped("its client has gone"));
            }
            match event {
                None => return Err(CompressError::Stopped("the engine has failed")),
                Some((number, Event::Prompt(told))) => {
                    found[places[number]].extend(told.iter().map(|token| token.log_prob));
                }
                Some((_, Event::Finished(finished))) => {
                    left -= 1;
                    self.read.prompt_tokens += finished.prompt_tokens;
                    self.read.cached_tokens += finished.cached_tokens;
                    self.read.report = [self.read.report, finished.report].into_iter().sum();
                }
                Some((_, Event::Failed(error) | Event::Refused(error))) => return Err(error.into()),
                Some((_, Event::Accepted | Event::Token(..))) => {}
            }
        }
        Ok(())
    }
}

impl Tokens for ServedJudge {
    fn tokens(&self, text: &str) -> Result<Vec<Token>, CompressError> {
        self.service.model.tokenizer.tokens(text)
    }
}

impl Judge for ServedJudge {
    fn log_probs(&mut self, readings: Vec<Reading>) -> Result<Vec<Vec<f32>>, CompressError> {
        let mut found: Vec<Vec<f32>> = readings.iter().map(|_| Vec::new()).collect();
        let lengths: Vec<usize> = readings.iter().map(|reading| reading.ids.len()).collect();
        let mut readings = readings.into_iter();
        for group in groups(&lengths) {
            let requests = group.clone().zip(readings.by_ref());
            let request = |(place, reading): (usize, Reading)| {
                let request = reading.request(&self.begin)?;
                Some((place, Request { salt: self.salt.clone(), ..request }))
            };
            let requests: Vec<(usize, Request)> = requests.filter_map(request).collect();
            if !requests.is_empty() {
                self.together(requests, &mut found)?;
            }
        }
        Ok(found)
    }

    fn positions(&self) -> usize {
        self.service.model.card.max_model_len - self.begin.len()
    }
}

/// Readings of these lengths, cut into groups that are queued together.
fn groups(lengths: &[usize]) -> Vec<Range<usize>> {
    let (mut groups, mut begin, mut sum) = (Vec::new(), 0, 0);
    for (index, &length) in lengths.iter().enumerate() {
        if index > begin && (sum + length > TOKENS || index - begin == TOGETHER) {
            groups.push(begin..index);
            (begin, sum) = (index, 0);
        }
        sum += length;
    }
    if begin < lengths.len() {
        groups.push(begin..lengths.len());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_bounded_in_number_and_tokens_and_lose_nothing() {
        let lengths = [vec![10; 40], vec![1500, 400, 200], vec![9000], vec![1; 3]].concat();
        let groups = groups(&lengths);
        let all: Vec<usize> = groups.iter().cloned().flatten().collect();
        assert_eq!(all, (0..lengths.len()).collect::<Vec<usize>>());
        for group in &groups {
            let sum: usize = lengths[group.clone()].iter().sum();
            assert!(group.len() <= TOGETHER && (sum <= TOKENS || group.len() == 1), "{group:?}: {sum}");
        }
        assert_eq!(groups[..3], [0..16, 16..32, 32..42]);
        assert!(super::groups(&[]).is_empty());
    }
}
