//! Requests that set themselves a smaller budget than the method's.

use crate::support::Model;
use crate::support::running::all;
use dropcap_engine::{Engine, EngineError, EngineOptions, Finished, Request};

const MODEL: &str = "llama_kvpress/llama";

fn engine(model: &Model, method: &str, options: EngineOptions) -> Engine {
    Engine::new(model.decoder.clone(), model.method(method), model.team.clone(), options).unwrap()
}

fn request(seed: u32, kv_budget: Option<u32>) -> Request {
    let prompt = (0..200).map(|i| (i * 7 + i / 5 + seed) % 97).collect();
    Request { prompt, max_tokens: 20, kv_budget, ..Request::default() }
}

/// What a text was, and what it held at its end.
fn account(finished: &Finished) -> (&[u32], u64, Option<u32>) {
    (&finished.token_ids, finished.report.live_entries, finished.kv_budget)
}

#[test]
fn a_request_with_its_own_budget_is_what_it_would_be_under_a_method_of_that_budget() {
    let model = Model::open(MODEL);
    for (servers, own) in [
        ("streaming_llm@120", "streaming_llm@40"),
        ("streaming_llm(when=prefill_end)@0.5", "streaming_llm(when=prefill_end)@40"),
        ("tova@120", "tova@40"),
        ("h2o(when=every_query)@0.5", "h2o(when=every_query)@40"),
        ("ada(keydiff)@120", "ada(keydiff)@40"),
        ("pyramid(knorm)@120", "pyramid(knorm)@40"),
    ] {
        // Chunks that divide nothing, and a text of the method's own budget in the same steps.
        let engine = |method| engine(&model, method, EngineOptions { chunk: 48, ..EngineOptions::default() });
        let mixed = all(&mut engine(servers), &[request(3, Some(40)), request(5, None)]);
        let small = all(&mut engine(own), &[request(3, None)]);
        let large = all(&mut engine(servers), &[request(5, None)]);
        assert_eq!(account(&mixed[0]), account(&small[0]), "{servers}");
        assert_eq!(account(&mixed[1]), account(&large[0]), "{servers}");
        assert_eq!(mixed[0].kv_budget, Some(40), "{servers}");
        assert!(mixed[0].report.live_entries < mixed[1].report.live_entries, "{servers}");
    }
}

#[test]
fn a_budget_that_a_method_does_not_have_or_cannot_keep_is_refused() {
    let model = Model::open(MODEL);
    let refusal = |method: &str, budget| {
        engine(&model, method, EngineOptions::default()).submit(request(0, Some(budget))).unwrap_err()
    };
    for method in ["none", "simulate(keep=0.5)"] {
        assert!(matches!(refusal(method, 40), EngineError::NoBudget), "{method}");
    }
    for (method, given, range) in [
        ("streaming_llm@120", 121, (5, 120)),
        ("streaming_llm@120", 4, (5, 120)),
        ("snapkv(window=16)@120", 15, (16, 120)),
        ("tova@120", 0, (1, 120)),
    ] {
        let error = refusal(method, given);
        let EngineError::Budget { given: told, least, most } = error else { panic!("{method}: {error}") };
        assert_eq!((told, (least, most)), (given, range), "{method}");
    }
}

#[test]
fn texts_of_other_budgets_share_no_beginning() {
    let model = Model::open(MODEL);
    let options = EngineOptions { prefix_bytes: 1 << 30, ..EngineOptions::default() };
    let mut engine = engine(&model, "streaming_llm@120", options);
    let mut cached = |budget| all(&mut engine, &[request(3, budget)])[0].cached_tokens;
    assert_eq!([cached(None), cached(Some(40)), cached(Some(41))], [0; 3]);
    assert!(cached(None) > 0 && cached(Some(40)) > 0);
}

#[test]
fn smaller_budgets_let_more_texts_in() {
    let model = Model::open(MODEL);
    let page = {
        let policy = model.method("streaming_llm@120");
        model.decoder.page_pool(policy.as_ref(), dropcap_kernels::DType::F32, None).unwrap().layout().bytes()
    };
    let layers = model.checkpoint.config().layers;
    let options = EngineOptions { kv_limit: Some(16 * layers * page), ..EngineOptions::default() };
    let most_at_once = |budget| {
        let mut engine = engine(&model, "streaming_llm@120", options.clone());
        for seed in 0..8 {
            engine.submit(request(seed, budget)).unwrap();
        }
        let mut most = 0;
        while !engine.is_idle() {
            engine.step().unwrap();
            most = engine.running().max(most);
        }
        most
    };
    assert!(most_at_once(Some(30)) > most_at_once(None));
}
