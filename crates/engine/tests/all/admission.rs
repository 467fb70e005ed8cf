//! Hundreds of requests that come, go and outgrow the memory, against the simplest model of an engine: one that runs
//! each request alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::Model;
use dropcap_engine::{
    Engine, EngineError, EngineOptions, FinishReason, Output, Request, Sampling, SequenceId,
};
use dropcap_kernels::{DType, PAGE_ENTRIES};
use dropcap_policy::EvictionPolicy;
use proptest::prelude::*;

/// Requests of one run.
const ARRIVALS: usize = 60;

/// A request, when it comes, and after how many steps its reader goes.
#[derive(Debug, Clone)]
struct Arrival {
    prompt: usize,
    max_tokens: usize,
    seed: u64,
    gap: usize,
    patience: Option<usize>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    let prompt = prop_oneof![6 => 1..30usize, 1 => 30..129usize];
    let patience = prop_oneof![4 => Just(None), 1 => (0..40usize).prop_map(Some)];
    (prompt, 1..70usize, any::<u64>(), 0..6usize, patience).prop_map(
        |(prompt, max_tokens, seed, gap, patience)| Arrival { prompt, max_tokens, seed, gap, patience },
    )
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Refused,
    Failed,
    OutOfMemory(Vec<u32>),
    Finished(Vec<u32>),
    Cancelled(Vec<u32>),
}

struct Setting<'a> {
    model: &'a Model,
    policy: Arc<dyn EvictionPolicy>,
    /// Bytes of a page.
    page: usize,
    options: EngineOptions,
}

impl Setting<'_> {
    fn engine(&self) -> Engine {
        let (decoder, team) = (self.model.decoder.clone(), self.model.team.clone());
        Engine::new(decoder, self.policy.clone(), team, self.options.clone()).unwrap()
    }

    /// The naive engine.
    fn alone(&self, request: &Request) -> Answer {
        let mut engine = self.engine();
        if let Err(error) = engine.submit(request.clone()) {
            assert!(matches!(error, EngineError::OutOfMemory(_)), "{error}");
            return Answer::Refused;
        }
        loop {
            for output in engine.step().unwrap() {
                if let Some((_, answer)) = answer(output) {
                    return answer;
                }
            }
        }
    }
}

fn answer(output: Output) -> Option<(SequenceId, Answer)> {
    match output {
        Output::Token { .. } | Output::Prompt { .. } => None,
        Output::Failed { id, error } => {
            assert!(matches!(error, EngineError::OutOfMemory(_)), "{error}");
            Some((id, Answer::Failed))
        }
        Output::Finished(done) => Some((
            done.id,
            match done.reason {
                FinishReason::OutOfMemory(_) => Answer::OutOfMemory(done.token_ids),
                FinishReason::Cancelled => Answer::Cancelled(done.token_ids),
                FinishReason::Stop | FinishReason::Length => Answer::Finished(done.token_ids),
            },
        )),
    }
}

fn request(arrival: &Arrival) -> Request {
    let prompt = (0..arrival.prompt as u64).map(|i| ((i * 7 + arrival.seed % 97) % 97) as u32).collect();
    let sampling = Sampling { temperature: 0.9, seed: arrival.seed, ..Sampling::default() };
    Request { prompt, max_tokens: arrival.max_tokens, sampling, ..Request::default() }
}

/// A request on its way.
struct Open {
    /// Its number among the arrivals.
    arrival: usize,
    /// The step at which its reader goes.
    until: Option<usize>,
    /// Tokens that it has produced.
    tokens: usize,
}

/// Runs all arrivals together and gives the answer to each.
fn play(setting: &Setting<'_>, arrivals: &[Arrival]) -> Vec<Answer> {
    let mut engine = setting.engine();
    let limit = setting.options.kv_limit.unwrap();
    let mut answers: Vec<Option<Answer>> = vec![None; arrivals.len()];
    // In the order in which they came.
    let mut open: BTreeMap<SequenceId, Open> = BTreeMap::new();
    let (mut next, mut wait, mut work, mut steps) = (0, 0, 0, 0);
    while next < arrivals.len() || !engine.is_idle() {
        while wait == 0 && next < arrivals.len() {
            let arrival = &arrivals[next];
            match engine.submit(request(arrival)) {
                Ok(id) => {
                    work += arrival.prompt + arrival.max_tokens;
                    let until = arrival.patience.map(|patience| steps + patience);
                    open.insert(id, Open { arrival: next, until, tokens: 0 });
                }
                Err(error) => {
                    assert!(matches!(error, EngineError::OutOfMemory(_)), "{error}");
                    answers[next] = Some(Answer::Refused);
                }
            }
            next += 1;
            wait = arrival.gap;
        }
        wait = wait.saturating_sub(1);

        let gone = open.extract_if(.., |_, one| one.until.is_some_and(|until| until <= steps));
        for (id, one) in gone.collect::<Vec<_>>() {
            let before = engine.usage().unwrap().held_bytes;
            let finished = engine.finish(id, FinishReason::Cancelled).unwrap().unwrap();
            let freed = (before - engine.usage().unwrap().held_bytes) / setting.page;
            let held = (finished.report.live_entries as usize).div_ceil(PAGE_ENTRIES);
            assert!(freed >= held, "its pages are free at once");
            answers[one.arrival] = Some(Answer::Cancelled(finished.token_ids));
        }

        let running = engine.running();
        let outputs = engine.step().unwrap();
        steps += 1;
        assert!(engine.usage().unwrap().held_bytes <= limit);
        if engine.running() < running && outputs.is_empty() {
            // Somebody gave way. Those that ran are the first that came.
            for (id, one) in open.iter().take(running) {
                assert!(
                    one.tokens > 0,
                    "{id:?} has produced nothing: nobody gives way for it, nor it for others"
                );
            }
        }
        for output in outputs {
            if let Output::Token { id, .. } = output {
                open.get_mut(&id).unwrap().tokens += 1;
            }
            if let Some((id, answer)) = answer(output) {
                let one = open.remove(&id).unwrap();
                assert!(answers[one.arrival].replace(answer).is_none(), "answered twice");
            }
        }
        // Token by token, one after the other, with every text going in twice: much slower than this is starving.
        assert!(steps <= 4 * work + 10 * ARRIVALS, "{steps} steps for {work} tokens");
    }
    assert!(open.is_empty());
    assert_eq!(engine.usage().unwrap().held_bytes, 0);
    answers.into_iter().map(|answer| answer.unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everyone_gets_what_they_get_alone_whoever_comes_and_goes(
        arrivals in proptest::collection::vec(arrival(), ARRIVALS),
        pages in 3..20usize, chunk in 1..40usize, max_batch in 2..9usize,
    ) {
        let model = Model::open("gpt2_dcp");
        for spec in ["none", "streaming_llm(sinks=2, recent=13)", "dcp(gates=pruning.safetensors)"] {
            let policy = model.method(spec);
            // What can be said by hand: three lanes, each with all of a text or with its window.
            let never_fits = |prompt: usize| {
                let entries = match spec {
                    "none" => prompt,
                    spec if spec.starts_with("streaming_llm") => prompt.min(15),
                    _ => 1,
                };
                3 * entries.div_ceil(PAGE_ENTRIES) > pages
            };
            let page = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap().layout().bytes();
            let kv_limit = Some(pages * page + 17);
            let options = EngineOptions { chunk, max_batch, kv_limit, ..EngineOptions::default() };
            let setting = Setting { model: &model, policy, page, options };
            for (arrival, answer) in arrivals.iter().zip(play(&setting, &arrivals)) {
                let alone = setting.alone(&request(arrival));
                prop_assert_eq!(answer == Answer::Refused, never_fits(arrival.prompt));
                match (answer, alone) {
                    (Answer::Cancelled(part), Answer::Finished(whole) | Answer::OutOfMemory(whole)) => {
                        prop_assert!(whole.starts_with(&part));
                    }
                    (Answer::Cancelled(part), _) => prop_assert!(part.is_empty()),
                    (answer, alone) => prop_assert_eq!(answer, alone),
                }
            }
        }
    }
}
