//! Requests run to their ends.

use dropcap_engine::{Engine, Finished, Output, Request};

/// A text of the golden models whose first `shared` tokens depend on nothing else.
pub fn text(shared: usize, own: usize, seed: usize) -> Vec<u32> {
    let token = |i: usize| (i * 7 + i * i % 11) as u32 % 97;
    (0..shared).map(token).chain((0..own).map(|i| token(i * (seed + 2) + seed))).collect()
}

/// A dozen greedy tokens after a prompt.
pub fn request(prompt: Vec<u32>) -> Request {
    Request { prompt, max_tokens: 12, ..Request::default() }
}

/// Runs requests together; what comes out is in their order.
pub fn all(engine: &mut Engine, requests: &[Request]) -> Vec<Finished> {
    for request in requests {
        engine.submit(request.clone()).unwrap();
    }
    let mut finished = Vec::new();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Finished(done) => finished.push(done),
                Output::Failed { error, .. } => panic!("{error}"),
                Output::Token { .. } | Output::Prompt { .. } => {}
            }
        }
    }
    finished.sort_by_key(|done| done.id);
    finished
}

/// Runs requests one after the other.
pub fn one_by_one(engine: &mut Engine, requests: &[Request]) -> Vec<Finished> {
    let run = |request: &Request| all(engine, std::slice::from_ref(request)).remove(0);
    requests.iter().map(run).collect()
}

/// The texts that came out.
pub fn tokens(finished: &[Finished]) -> Vec<&[u32]> {
    finished.iter().map(|done| &done.token_ids[..]).collect()
}

/// How many tokens of each prompt came with the beginning of another.
pub fn cached(finished: &[Finished]) -> Vec<usize> {
    finished.iter().map(|done| done.cached_tokens).collect()
}
