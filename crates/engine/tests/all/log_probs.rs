//! Log-probabilities against a softmax in float64 over the logits of a whole evaluation.

use std::collections::BTreeMap;

use crate::support::Model;
use dropcap_engine::{
    Engine, EngineError, EngineOptions, FinishReason, LogProbs, Output, PromptLogProbs, Request, SequenceId,
    TokenLogProb,
};
use dropcap_kernels::PAGE_ENTRIES;

/// Rounding of f32 logits of a size below ten, of the exponential, and of sums over a pruned cache that chunks order.
const TOLERANCE: f64 = 2e-5;

/// What an engine told of one request.
#[derive(Debug, Default, PartialEq)]
struct Told {
    /// Position of the first prompt token that was told of.
    first: Option<usize>,
    prompt: Vec<TokenLogProb>,
    generated: Vec<TokenLogProb>,
    reason: Option<FinishReason>,
}

fn run(engine: &mut Engine, requests: Vec<Request>) -> Vec<Told> {
    let ids: Vec<SequenceId> = requests.into_iter().map(|request| engine.submit(request).unwrap()).collect();
    let mut told: BTreeMap<SequenceId, Told> = BTreeMap::new();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Prompt { id, first, log_probs } => {
                    let told = told.entry(id).or_default();
                    assert_eq!(*told.first.get_or_insert(first) + told.prompt.len(), first);
                    assert!(told.generated.is_empty());
                    told.prompt.extend(log_probs);
                }
                Output::Token { id, token, log_prob } => {
                    if let Some(log_prob) = log_prob {
                        assert_eq!(log_prob.token, token);
                        told.entry(id).or_default().generated.push(log_prob);
                    }
                }
                Output::Finished(done) => told.entry(done.id).or_default().reason = Some(done.reason),
                Output::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    ids.iter().map(|id| told.remove(id).unwrap()).collect()
}

fn text(length: u32, seed: u32) -> Vec<u32> {
    (0..length).map(|i| (i * 7 + i * i % 11 + seed * 31) % 97).collect()
}

/// The log-probability of every token by one row of logits, in float64.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = row.iter().fold(f64::MIN, |best, &logit| best.max(f64::from(logit)));
    let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    row.iter().map(|&logit| f64::from(logit) - largest - sum.ln()).collect()
}

/// Compares what was told with rows of logits `[t, v]`, the first of which is that of the first token told of.
fn compare(told: &[TokenLogProb], rows: &[f32], vocabulary: usize, top: usize) {
    let rows = rows.chunks(vocabulary);
    assert_eq!(rows.len(), told.len());
    for (told, row) in told.iter().zip(rows) {
        let expected = log_softmax(row);
        let close = |token: u32, log_prob: f32| {
            let difference = (f64::from(log_prob) - expected[token as usize]).abs();
            assert!(difference < TOLERANCE, "{told:?}: {} expected", expected[token as usize]);
        };
        close(told.token, told.log_prob);
        let mut order: Vec<u32> = (0..).take(vocabulary).collect();
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        let likeliest: Vec<u32> = told.top.iter().map(|&(token, _)| token).collect();
        assert_eq!(likeliest, order[..top]);
        told.top.iter().for_each(|&(token, log_prob)| close(token, log_prob));
    }
}

#[test]
fn tokens_are_as_likely_as_the_softmax_of_a_whole_evaluation_says_whatever_the_chunks() {
    let model = Model::open("gpt2_dcp");
    let vocabulary = model.checkpoint.config().vocabulary;
    for (method, chunk) in [("none", 5), ("none", 256), ("dcp", 16)] {
        let policy = model.method(method);
        let options = EngineOptions { chunk, ..EngineOptions::default() };
        let mut engine =
            Engine::new(model.decoder.clone(), policy.clone(), model.team.clone(), options).unwrap();
        let requests = [(40, 0, 3), (90, 17, 0), (3, 0, 1), (1, 0, 2)].map(|(length, from, top)| Request {
            prompt: text(length, from as u32),
            max_tokens: 6,
            log_probs: LogProbs { generated: Some(top), prompt: Some(PromptLogProbs { from, top }) },
            ..Request::default()
        });
        for (request, told) in requests.clone().into_iter().zip(run(&mut engine, requests.to_vec())) {
            let Some(PromptLogProbs { from, top }) = request.log_probs.prompt else { panic!() };
            let prompt = request.prompt.len();
            let first = from.max(1);
            assert_eq!(told.first, (prompt > first).then_some(first));
            let mut all = request.prompt;
            all.extend(told.generated.iter().map(|generated| generated.token));
            let rows = model.evaluate(policy.as_ref(), &all, chunk).logits;
            let row = |position: usize| (position - 1) * vocabulary;
            compare(&told.prompt, &rows[row(first)..row(prompt).max(row(first))], vocabulary, top);
            compare(&told.generated, &rows[row(prompt)..row(all.len())], vocabulary, top);
        }
    }
}

#[test]
fn a_request_for_nothing_but_the_prompt_ends_with_it() {
    let model = Model::open("gpt2_dcp");
    let options = EngineOptions { chunk: 8, ..EngineOptions::default() };
    let mut engine =
        Engine::new(model.decoder.clone(), model.method("none"), model.team.clone(), options).unwrap();
    let request = Request { prompt: text(30, 1), ..Request::default() };
    assert!(matches!(engine.submit(request.clone()), Err(EngineError::NoTokensWanted)));
    let prompt = Some(PromptLogProbs::default());
    let request = Request { log_probs: LogProbs { generated: None, prompt }, ..request };
    let told = run(&mut engine, vec![request.clone(), Request { prompt: text(1, 1), ..request }]);
    assert_eq!((told[0].first, told[0].prompt.len()), (Some(1), 29));
    assert!(told.iter().all(|told| told.reason == Some(FinishReason::Length)));
    assert_eq!(told[1].prompt, []);
    assert_eq!(engine.usage().unwrap().held_bytes, 0);
}

#[test]
fn who_starts_again_tells_of_no_token_twice() {
    let model = Model::open("gpt2_dcp");
    let policy = model.method("none");
    let pool = model.decoder.page_pool(policy.as_ref(), dropcap_kernels::DType::F32, None).unwrap();
    let (page, layers) = (pool.layout().bytes(), model.checkpoint.config().layers);
    let requests: Vec<Request> = (0..3)
        .map(|seed| Request {
            prompt: text(PAGE_ENTRIES as u32 - 4, seed),
            max_tokens: 80,
            log_probs: LogProbs { generated: Some(1), prompt: Some(PromptLogProbs::default()) },
            ..Request::default()
        })
        .collect();
    let engine = |kv_limit| {
        let options = EngineOptions { chunk: 16, kv_limit, ..EngineOptions::default() };
        Engine::new(model.decoder.clone(), policy.clone(), model.team.clone(), options).unwrap()
    };
    let free = run(&mut engine(None), requests.clone());
    // Room for two of them at their ends, and for all three at their beginnings.
    let crowded = run(&mut engine(Some(8 * layers * page)), requests);
    assert_eq!(crowded, free);
}

#[test]
fn a_full_queue_refuses_and_is_free_again_when_somebody_has_left() {
    let model = Model::open("gpt2_dcp");
    let options = EngineOptions { max_batch: 1, max_waiting: Some(2), ..EngineOptions::default() };
    let mut engine =
        Engine::new(model.decoder.clone(), model.method("none"), model.team.clone(), options).unwrap();
    let request = Request { prompt: text(5, 0), max_tokens: 2, ..Request::default() };
    engine.submit(request.clone()).unwrap();
    engine.submit(request.clone()).unwrap();
    assert!(matches!(engine.submit(request.clone()), Err(EngineError::QueueFull { limit: 2 })));
    engine.step().unwrap();
    assert_eq!((engine.running(), engine.waiting()), (1, 1));
    engine.submit(request).unwrap();
}
