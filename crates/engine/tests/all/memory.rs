//! Memory is really freed, shared between sequences, and never lost.

use std::sync::Arc;

use crate::sink::Sink;
use crate::support::Model;
use dropcap_engine::{Engine, EngineError, EngineOptions, FinishReason, Finished, Output, Request, Sampling};
use dropcap_kernels::DType;
use dropcap_policy::{EvictionPolicy, KeepAll};

fn engine(model: &Model, policy: Arc<dyn EvictionPolicy>, options: EngineOptions) -> Engine {
    Engine::new(model.decoder.clone(), policy, model.team.clone(), options).unwrap()
}

fn request(length: usize, max_tokens: usize, seed: u64) -> Request {
    let prompt = (0..length as u32).map(|i| (i * 7 + seed as u32) % 97).collect();
    Request { prompt, max_tokens, sampling: Sampling::default(), ..Request::default() }
}

#[test]
fn ten_thousand_requests_leak_nothing() {
    let model = Model::open("gpt2_dcp");
    let mut engine = engine(&model, model.method("dcp(gates=pruning.safetensors)"), EngineOptions::default());
    let mut finished = 0;
    for wave in 0..100u64 {
        for number in 0..100u64 {
            let seed = wave * 100 + number;
            let id = engine.submit(request(1 + seed as usize % 13, 1 + seed as usize % 3, seed)).unwrap();
            if seed % 17 == 0 {
                finished += ended(&engine.step().unwrap());
                finished += u64::from(engine.finish(id, FinishReason::Cancelled).unwrap().is_some());
            }
        }
        while !engine.is_idle() {
            finished += ended(&engine.step().unwrap());
        }
        assert_eq!(engine.usage().unwrap().held_bytes, 0, "after wave {wave}");
    }
    assert_eq!(finished, 10_000);
}

fn ended(outputs: &[Output]) -> u64 {
    outputs.iter().filter(|output| matches!(output, Output::Finished(_))).count() as u64
}

#[test]
fn held_bytes_fall_when_entries_die_and_others_use_them() {
    let model = Model::open("llama_kvpress/llama");
    let mut dense = engine(&model, Arc::new(KeepAll), EngineOptions::default());
    let mut pruned =
        engine(&model, model.method("streaming_llm(sinks=4, recent=60)"), EngineOptions::default());
    let held = |engine: &mut Engine| {
        engine.submit(request(600, 40, 1)).unwrap();
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                if let Output::Finished(done) = output {
                    return done.report;
                }
            }
        }
        unreachable!("the sequence finishes")
    };
    let (dense, pruned) = (held(&mut dense), held(&mut pruned));
    assert!(pruned.held_bytes * 5 < dense.held_bytes, "{pruned:?} against {dense:?}");
    assert_eq!(pruned.dense_bytes, dense.dense_bytes);
    assert_eq!(pruned.live_entries, 4 * 63, "four layers: sinks, and what the next query still sees");
}

/// Bytes of a page of `model` under `policy`.
fn page(model: &Model, policy: &dyn EvictionPolicy) -> usize {
    model.decoder.page_pool(policy, DType::F32, None).unwrap().layout().bytes()
}

#[test]
fn a_request_that_cannot_fit_alone_is_refused_at_submit_with_its_sum() {
    let model = Model::open("gpt2_dcp");
    let page = page(&model, &KeepAll);
    // Three layers: nine pages hold 96 tokens of one sequence.
    let options = EngineOptions { kv_limit: Some(9 * page), ..EngineOptions::default() };
    let mut engine = engine(&model, Arc::new(KeepAll), options);
    let small = engine.submit(request(10, 20, 1)).unwrap();
    engine.submit(request(96, 1, 3)).unwrap();
    let refused = engine.submit(request(97, 5, 2)).unwrap_err();
    assert!(matches!(refused, EngineError::OutOfMemory(_)), "{refused:?}");
    let text = refused.to_string();
    for number in [97, 12, page, 12 * page, 9 * page, 9] {
        assert!(text.contains(&number.to_string()), "{number}: {text}");
    }
    let (done, failed) = drain(&mut engine);
    assert_eq!((done.len(), failed.len()), (2, 0));
    assert_eq!(done.iter().find(|one| one.id == small).unwrap().token_ids.len(), 20);
    assert_eq!(engine.usage().unwrap().held_bytes, 0);
}

#[test]
fn a_prompt_of_any_length_fits_where_the_method_bounds_what_it_holds() {
    let model = Model::open("llama_kvpress/llama");
    let policy = model.method("streaming_llm(sinks=4, recent=28)");
    // A page in each of four layers holds the sinks and the window.
    let options =
        EngineOptions { kv_limit: Some(4 * page(&model, policy.as_ref())), ..EngineOptions::default() };
    let mut engine = engine(&model, policy, options);
    engine.submit(request(500, 20, 1)).unwrap();
    engine.submit(request(40, 20, 2)).unwrap();
    let (done, failed) = drain(&mut engine);
    assert_eq!((done.len(), failed.len()), (2, 0));
    assert!(done.iter().all(|one| one.token_ids.len() == 20));
}

#[test]
fn a_prompt_that_learned_gates_may_prune_enough_is_not_refused() {
    let model = Model::open("gpt2_dcp");
    let policy = model.method("dcp(gates=pruning.safetensors)");
    let options =
        EngineOptions { kv_limit: Some(6 * page(&model, policy.as_ref())), ..EngineOptions::default() };
    let mut engine = engine(&model, policy, options);
    // Dense it would take twelve.
    engine.submit(request(120, 3, 1)).unwrap();
    engine.submit(request(20, 3, 2)).unwrap();
    let (done, failed) = drain(&mut engine);
    assert_eq!(done.len() + failed.len(), 2, "everyone is answered");
    assert!(done.iter().any(|one| one.prompt_tokens == 20));
}

#[test]
fn a_text_that_runs_out_of_memory_is_delivered_with_the_true_need() {
    let model = Model::open("gpt2_dcp");
    let page = page(&model, &KeepAll);
    // A few bytes more than pages: a cap is no multiple of them.
    let options = EngineOptions { kv_limit: Some(7 * page + 100), ..EngineOptions::default() };
    let mut free = engine(&model, Arc::new(KeepAll), EngineOptions::default());
    free.submit(request(10, 100, 1)).unwrap();
    let whole = drain(&mut free).0.remove(0).token_ids;
    let mut engine = engine(&model, Arc::new(KeepAll), options);
    engine.submit(request(10, 100, 1)).unwrap();
    let (mut done, failed) = drain(&mut engine);
    assert!(failed.is_empty());
    let done = done.remove(0);
    // 64 tokens are in: ten of the prompt, 54 generated; the 55th is known.
    assert_eq!(done.token_ids, whole[..55]);
    let FinishReason::OutOfMemory(shortage) = done.reason else { panic!("{:?}", done.reason) };
    assert_eq!(done.reason.as_str(), "out_of_memory");
    assert_eq!((shortage.tokens, shortage.held_pages, shortage.wanted_pages), (64, 6, 3));
    assert_eq!((shortage.lanes, shortage.limit_bytes), (3, 7 * page + 100));
    assert!((shortage.held_pages + shortage.wanted_pages) * page > shortage.limit_bytes);
    assert_eq!(engine.usage().unwrap().held_bytes, 0);
}

#[test]
fn nobody_gives_way_for_a_prompt_that_has_produced_nothing() {
    let model = Model::open("gpt2_dcp");
    let page = page(&model, &KeepAll);
    let options = EngineOptions { kv_limit: Some(9 * page), chunk: 16, ..EngineOptions::default() };
    let mut engine = engine(&model, Arc::new(KeepAll), options);
    // The first two fit together until each has 32 tokens; the third never fits beside one of them.
    let first = engine.submit(request(20, 40, 1)).unwrap();
    let second = engine.submit(request(20, 12, 2)).unwrap();
    let third = engine.submit(request(90, 3, 3)).unwrap();
    let mut order = Vec::new();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Token { id, .. } if id == third => {
                    assert!(order.contains(&first) && order.contains(&second), "it waited for both");
                }
                Output::Token { .. } | Output::Prompt { .. } => {}
                Output::Finished(done) => order.push(done.id),
                Output::Failed { error, .. } => panic!("{error}"),
            }
        }
        assert!(engine.running() <= 2, "the third only runs alone");
    }
    assert_eq!(order, [second, first, third]);
}

#[test]
fn a_cap_below_one_token_is_refused_with_both_sizes() {
    let model = Model::open("gpt2_dcp");
    let page = page(&model, &KeepAll);
    let options = EngineOptions { kv_limit: Some(3 * page - 1), ..EngineOptions::default() };
    let refused = Engine::new(model.decoder.clone(), Arc::new(KeepAll), model.team.clone(), options);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains(&(3 * page - 1).to_string()) && text.contains(&(3 * page).to_string()), "{text}");
}

#[test]
fn without_a_cap_the_pool_is_bounded_by_the_machine() {
    let model = Model::open("gpt2_dcp");
    let engine = engine(&model, Arc::new(KeepAll), EngineOptions::default());
    let limit = engine.usage().unwrap().limit_bytes.unwrap();
    assert!(limit > 1 << 20 && limit < 1 << 50, "{limit}");
}

#[test]
fn an_engine_moves_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Engine>();
}

/// Runs to the end: what finished, in order, and what failed.
fn drain(engine: &mut Engine) -> (Vec<Finished>, Vec<EngineError>) {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Finished(finished) => done.push(finished),
                Output::Failed { error, .. } => failed.push(error),
                Output::Token { .. } | Output::Prompt { .. } => {}
            }
        }
    }
    (done, failed)
}

#[test]
fn a_batch_gives_each_sequence_what_it_gets_alone() {
    let model = Model::open("gpt2_dcp");
    for spec in ["none", "dcp(gates=pruning.safetensors)", "streaming_llm(sinks=2, recent=9)"] {
        let run = |requests: &[Request], options: EngineOptions| {
            let mut engine = engine(&model, model.method(spec), options);
            let ids: Vec<_> =
                requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
            let mut texts = vec![Vec::new(); ids.len()];
            while !engine.is_idle() {
                for output in engine.step().unwrap() {
                    if let Output::Finished(done) = output {
                        texts[ids.iter().position(|id| *id == done.id).unwrap()] = done.token_ids;
                    }
                }
            }
            texts
        };
        let requests: Vec<Request> = (0..12)
            .map(|seed| {
                let mut request = request(1 + seed as usize * 5, 30, seed);
                request.sampling = Sampling { temperature: 0.8, seed, ..Sampling::default() };
                request
            })
            .collect();
        let together = run(&requests, EngineOptions { chunk: 40, max_batch: 5, ..EngineOptions::default() });
        for (request, text) in requests.iter().zip(&together) {
            let alone = run(std::slice::from_ref(request), EngineOptions::default());
            assert_eq!(alone[0], *text, "{spec}, prompt of {}", request.prompt.len());
        }
    }
}

#[test]
fn requests_that_cannot_run_are_refused_with_both_numbers() {
    let model = Model::open("gpt2_dcp");
    let mut engine = engine(&model, Arc::new(KeepAll), EngineOptions::default());
    let refuse = |engine: &mut Engine, request: Request, words: &[&str]| {
        let error = engine.submit(request).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    refuse(&mut engine, request(0, 5, 0), &["empty"]);
    refuse(&mut engine, request(129, 5, 0), &["129", "128"]);
    refuse(&mut engine, request(5, 0, 0), &["max_tokens"]);
    let outside = Request { prompt: vec![3, 97], ..request(1, 1, 0) };
    refuse(&mut engine, outside, &["97", "vocabulary"]);
    assert!(engine.is_idle());
    // As many tokens as there are positions, plus the one that is never fed back.
    engine.submit(request(100, 1000, 0)).unwrap();
    let mut tokens = 0;
    while !engine.is_idle() {
        tokens +=
            engine.step().unwrap().iter().filter(|output| matches!(output, Output::Token { .. })).count();
    }
    assert_eq!(tokens, 29);
}

#[test]
fn a_sequence_that_gave_way_starts_again_with_the_same_text_and_is_traced_once() {
    let model = Model::open("gpt2_dcp");
    let spec = "dcp(gates=pruning.safetensors)";
    let policy = model.method(spec);
    let page = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap().layout().bytes();
    let run = |limit: Option<usize>| {
        let options = EngineOptions { kv_limit: limit, chunk: 16, ..EngineOptions::default() };
        let mut engine = engine(&model, policy.clone(), options);
        let sink = Sink::default();
        engine.trace_to(sink.writer(&model, spec));
        let ids: Vec<_> = (0..4).map(|seed| engine.submit(request(30, 60, seed)).unwrap()).collect();
        let (mut texts, mut most, mut least) = (vec![Vec::new(); 4], 0, usize::MAX);
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                match output {
                    Output::Finished(done) => {
                        texts[ids.iter().position(|id| *id == done.id).unwrap()] = done.token_ids;
                    }
                    Output::Failed { error, .. } => panic!("{error}"),
                    Output::Token { .. } | Output::Prompt { .. } => {}
                }
            }
            if engine.running() >= most {
                most = engine.running();
            } else {
                least = least.min(engine.running());
            }
        }
        engine.finish_trace().unwrap();
        (texts, dropcap_trace::Timeline::read(&sink.bytes()[..]).unwrap(), most > 1 && least < 4)
    };
    let (free, narrow) = (run(None), run(Some(10 * page)));
    assert!(narrow.2, "the narrow run had to make room");
    assert_eq!(free.0, narrow.0);
    for (id, sequence) in &free.1.sequences {
        let other = &narrow.1.sequences[id];
        assert_eq!(sequence.ids, other.ids);
        for layer in 0..3 {
            assert!(sequence.fates(layer, 0).eq(other.fates(layer, 0)), "sequence {id} layer {layer}");
        }
    }
}
