//! Many requests through one engine, which is kept full.

use std::collections::HashMap;

use dropcap_cache::KvReport;
use dropcap_engine::{Engine, Output, Request, SequenceId, TokenLogProb};

use crate::EvalError;

/// What came of one request.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// Of the prompt tokens that were asked about.
    pub(crate) log_probs: Vec<TokenLogProb>,
    /// What was generated.
    pub(crate) tokens: Vec<u32>,
    /// The cache at the end.
    pub(crate) report: KvReport,
}

/// Requests that wait in the engine beside those that run, so that none that leaves is missed.
const AHEAD: usize = 64;

/// Runs all requests, each under a key of the caller's, and hands over what came of them in the order in which they end.
///
/// # Errors
/// A request that the engine refuses or gives up; a failure of `done`.
pub(crate) fn drive<K>(
    engine: &mut Engine,
    mut requests: impl Iterator<Item = (K, Request)>,
    mut done: impl FnMut(K, Answered) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let mut under_way: HashMap<SequenceId, (K, Answered)> = HashMap::new();
    loop {
        while under_way.len() < engine.running() + AHEAD {
            let Some((key, request)) = requests.next() else { break };
            under_way.insert(engine.submit(request)?, (key, Answered::default()));
        }
        if engine.is_idle() {
            return Ok(());
        }
        for output in engine.step()? {
            match output {
                Output::Prompt { id, log_probs, .. } => {
                    if let Some((_, answered)) = under_way.get_mut(&id) {
                        answered.log_probs.extend(log_probs);
                    }
                }
                Output::Token { .. } => {}
                Output::Finished(finished) => {
                    if let Some((key, mut answered)) = under_way.remove(&finished.id) {
                        answered.tokens = finished.token_ids;
                        answered.report = finished.report;
                        done(key, answered)?;
                    }
                }
                Output::Failed { error, .. } => return Err(error.into()),
            }
        }
    }
}
