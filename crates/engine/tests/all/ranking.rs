//! Methods that rank, in the engine: what they free, what they refuse, and that a text that starts again goes on as it was.

use crate::support::Model;
use dropcap_engine::{
    Engine, EngineError, EngineOptions, FinishReason, Finished, Output, Request, SequenceId,
};
use dropcap_kernels::{DType, PAGE_ENTRIES};

fn engine(model: &Model, method: &str, options: EngineOptions) -> Engine {
    Engine::new(model.decoder.clone(), model.method(method), model.team.clone(), options).unwrap()
}

fn request(length: usize, max_tokens: usize, seed: u32) -> Request {
    let prompt = (0..length as u32).map(|i| (i * 7 + i / 5 + seed) % 97).collect();
    Request { prompt, max_tokens, ..Request::default() }
}

/// Runs until nothing is left, and says in how many steps.
fn drain(engine: &mut Engine) -> (Vec<Finished>, usize) {
    let (mut finished, mut steps) = (Vec::new(), 0);
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Finished(one) => finished.push(one),
                Output::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
        steps += 1;
    }
    finished.sort_by_key(|one| one.id);
    (finished, steps)
}

#[test]
fn what_is_beyond_the_budget_is_freed_where_the_prompt_ends() {
    let model = Model::open("llama_kvpress/llama");
    let (prompt, generated) = (400, 9);
    for (method, lanes) in
        [("snapkv(window=16)@0.2", 8), ("tova@80", 4), ("h2o@0.2", 8), ("ada(keydiff)@80", 8)]
    {
        let mut engine = engine(&model, method, EngineOptions::default());
        engine.submit(request(prompt, generated, 3)).unwrap();
        let (finished, _) = drain(&mut engine);
        let report = finished[0].report;
        // The last token is never fed.
        let entries = lanes * (80 + generated as u64 - 1);
        assert_eq!(report.live_entries, entries, "{method}");
        let page = model.decoder.page_pool(model.method(method).as_ref(), DType::F32, None).unwrap();
        let pages = entries.div_ceil(PAGE_ENTRIES as u64) + lanes;
        // Beside its pages a lane has lists that may be twice as long as what they hold.
        let beside = 2 * 16 * (entries + lanes * PAGE_ENTRIES as u64);
        assert!(report.held_bytes <= pages * page.layout().bytes() as u64 + beside, "{method}: {report:?}");
        assert_eq!(engine.usage().unwrap().held_bytes, 0, "{method}");
    }
}

#[test]
fn a_window_beyond_what_a_step_holds_is_refused_at_submit_with_both_numbers() {
    let model = Model::open("llama_kvpress/llama");
    let options = EngineOptions { chunk: 40, ..EngineOptions::default() };
    let mut narrow = engine(&model, "snapkv(window=41)@0.5", options.clone());
    let refused = narrow.submit(request(100, 3, 1)).unwrap_err();
    assert!(matches!(refused, EngineError::Together { needed: 41, chunk: 40 }), "{refused}");
    assert!(refused.to_string().contains("raise the chunk to 41"), "{refused}");
    narrow.submit(request(40, 3, 1)).unwrap();
    assert_eq!(drain(&mut narrow).0[0].reason, FinishReason::Length, "a shorter prompt is its own window");
    let mut whole = engine(&model, "expected_attention@0.5", options);
    assert!(whole.submit(request(41, 3, 1)).is_err());
    whole.submit(request(40, 3, 1)).unwrap();
    assert_eq!(drain(&mut whole).0.len(), 1);
}

#[test]
fn windows_of_prompts_that_share_steps_are_never_cut_apart() {
    let model = Model::open("llama_kvpress/qwen3");
    let options = EngineOptions { chunk: 48, ..EngineOptions::default() };
    let requests: Vec<Request> =
        [97, 60, 33, 50, 48, 10].map(|length| request(length, 6, length as u32)).into();
    let mut together = engine(&model, "snapkv(window=20)@0.4", options.clone());
    for request in &requests {
        together.submit(request.clone()).unwrap();
    }
    let (found, _) = drain(&mut together);
    for (found, request) in found.iter().zip(&requests) {
        let mut alone = engine(&model, "snapkv(window=20)@0.4", EngineOptions::default());
        alone.submit(request.clone()).unwrap();
        let (expected, _) = drain(&mut alone);
        assert_eq!(found.token_ids, expected[0].token_ids, "{} tokens", request.prompt.len());
        assert_eq!(found.report.live_entries, expected[0].report.live_entries);
    }
}

#[test]
fn a_text_that_starts_again_under_a_method_of_every_query_goes_on_as_it_would_have() {
    let model = Model::open("llama_kvpress/llama");
    for (method, lanes) in [
        ("tova(when=every_query)@0.5", 4),
        ("h2o(when=every_query)@0.5", 8),
        ("ada(knorm(when=every_query))@0.5", 8),
        ("squeeze(tova(when=every_query))@0.5", 4),
        ("key_rerotation(tova(when=every_query))@0.5", 4),
    ] {
        let requests = [request(20, 80, 5), request(20, 80, 11)];
        let mut free = engine(&model, method, EngineOptions::default());
        let ids: Vec<SequenceId> = requests.iter().map(|one| free.submit(one.clone()).unwrap()).collect();
        let (expected, undisturbed) = drain(&mut free);
        let page = model.decoder.page_pool(model.method(method).as_ref(), DType::F32, None).unwrap();
        // Two pages a lane for one and one for the other: both outgrow a page when they have long begun to forget.
        let kv_limit = Some(3 * lanes * page.layout().bytes());
        let mut tight = engine(&model, method, EngineOptions { kv_limit, ..EngineOptions::default() });
        for request in &requests {
            tight.submit(request.clone()).unwrap();
        }
        let (found, steps) = drain(&mut tight);
        assert!(steps > undisturbed + 20, "{method}: nobody started again in {steps} steps");
        assert_eq!(found.iter().map(|one| one.id).collect::<Vec<_>>(), ids);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.reason, FinishReason::Length, "{method}");
            assert_eq!(found.token_ids, expected.token_ids, "{method}");
        }
    }
}
