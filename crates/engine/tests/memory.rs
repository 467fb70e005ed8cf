//! Memory is really freed, shared between sequences, and never lost.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on should fail"
)]

mod support;

use std::sync::Arc;

use dropcap_engine::{Engine, EngineError, EngineOptions, FinishReason, Output, Request, Sampling};
use dropcap_kernels::DType;
use dropcap_policy::{EvictionPolicy, KeepAll};
use support::Model;

fn engine(model: &Model, policy: Arc<dyn EvictionPolicy>, options: EngineOptions) -> Engine {
    Engine::new(model.decoder.clone(), policy, model.team.clone(), options).unwrap()
}

fn request(length: usize, max_tokens: usize, seed: u64) -> Request {
    let prompt = (0..length as u32).map(|i| (i * 7 + seed as u32) % 97).collect();
    Request { prompt, max_tokens, sampling: Sampling::default(), stop_tokens: Vec::new() }
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

#[test]
fn out_of_memory_fails_one_sequence_with_the_sizes_and_the_others_go_on() {
    let model = Model::open("gpt2_dcp");
    let page = model.decoder.page_pool(&KeepAll, DType::F32, None).unwrap().layout().bytes();
    // Three layers: nine pages hold 96 tokens of one sequence.
    let options = EngineOptions { kv_limit: Some(9 * page), ..EngineOptions::default() };
    let mut engine = engine(&model, Arc::new(KeepAll), options);
    let small = engine.submit(request(10, 20, 1)).unwrap();
    let large = engine.submit(request(100, 5, 2)).unwrap();
    let later = engine.submit(request(20, 20, 3)).unwrap();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Finished(finished) => done.push(finished.id),
                Output::Failed { id, error } => {
                    let text = error.to_string();
                    assert!(matches!(error, EngineError::OutOfMemory { .. }), "{text}");
                    assert!(text.contains(&(9 * page).to_string()), "{text}");
                    failed.push(id);
                }
                Output::Token { .. } => {}
            }
        }
    }
    assert_eq!(failed, [large]);
    done.sort_unstable();
    assert_eq!(done, [small, later]);
    assert_eq!(engine.usage().unwrap().held_bytes, 0);
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

/// A sink that the test can read while the engine owns it.
#[derive(Clone, Default)]
struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
        let sink = Shared::default();
        let config = model.checkpoint.config();
        let header = dropcap_trace::TraceHeader {
            version: dropcap_trace::VERSION,
            model: "gpt2_dcp".into(),
            method: spec.into(),
            layers: config.layers,
            kv_heads: config.kv_heads,
            granularity: dropcap_trace::Granularity::Layer,
            vocabulary: config.vocabulary,
        };
        let writer: Box<dyn std::io::Write + Send> = Box::new(sink.clone());
        engine.trace_to(dropcap_trace::TraceWriter::new(writer, &header).unwrap());
        let ids: Vec<_> = (0..4).map(|seed| engine.submit(request(30, 60, seed)).unwrap()).collect();
        let (mut texts, mut most, mut least) = (vec![Vec::new(); 4], 0, usize::MAX);
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                match output {
                    Output::Finished(done) => {
                        texts[ids.iter().position(|id| *id == done.id).unwrap()] = done.token_ids;
                    }
                    Output::Failed { error, .. } => panic!("{error}"),
                    Output::Token { .. } => {}
                }
            }
            if engine.running() >= most {
                most = engine.running();
            } else {
                least = least.min(engine.running());
            }
        }
        let trace = sink.0.lock().unwrap().clone();
        (texts, dropcap_trace::Timeline::read(&trace[..]).unwrap(), most > 1 && least < 4)
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
