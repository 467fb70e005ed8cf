//! Many requests through one engine, which is kept full.

use std::collections::HashMap;

use dropcap_cache::KvReport;

use crate::{Engine, EngineError, Output, Request, SequenceId, TokenLogProb};

/// What came of one request.
#[derive(Debug, Default)]
pub struct Answered {
    /// Of the prompt tokens that were asked about, in their order.
    pub log_probs: Vec<TokenLogProb>,
    /// What was generated.
    pub tokens: Vec<u32>,
    /// The cache at the end.
    pub report: KvReport,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
}

/// Requests that wait in the engine beside those that run, so that none that leaves is missed.
const AHEAD: usize = 64;

/// Runs all requests through an idle engine, each under a key of the caller's, and hands over what came of them in the order
/// in which they end. Requests are taken from the iterator as the engine has room for them.
///
/// # Errors
/// A request that the engine refuses or gives up; a failure of `done`. What runs then stays in the engine.
pub fn drive<K, E: From<EngineError>>(
    engine: &mut Engine,
    mut requests: impl Iterator<Item = (K, Request)>,
    mut done: impl FnMut(K, Answered) -> Result<(), E>,
) -> Result<(), E> {
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
                        answered.prompt_tokens = finished.prompt_tokens;
                        done(key, answered)?;
                    }
                }
                Output::Failed { error, .. } => return Err(error.into()),
            }
        }
    }
}
