//! What fails, fails alone, is said once and clearly, and holds nothing afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sink::Sink;
use crate::support::Model;
use dropcap_engine::{
    Engine, EngineError, EngineOptions, FinishReason, Output, Request, Sampling, SequenceId,
};
use dropcap_kernels::DType;
use dropcap_policy::{EvictionPolicy, KeepAll, LaneEditor, Observation, PolicyError};
use dropcap_trace::{End, Event, Timeline, TraceReader};

fn request(length: u32, max_tokens: usize) -> Request {
    let prompt = (0..length).map(|i| i * 7 % 97).collect();
    Request { prompt, max_tokens, sampling: Sampling::default(), ..Request::default() }
}

fn engine(model: &Model, policy: Arc<dyn EvictionPolicy>, options: EngineOptions) -> Engine {
    Engine::new(model.decoder.clone(), policy, model.team.clone(), options).unwrap()
}

/// The last line of every sequence that a trace tells of.
fn ends(sink: &Sink) -> BTreeMap<u64, End> {
    let bytes = sink.bytes();
    let events = TraceReader::new(&bytes[..]).unwrap().map(Result::unwrap);
    let ends =
        events.filter_map(|event| if let Event::End(end) = event { Some((end.id, end)) } else { None });
    ends.collect()
}

/// Keeps everything without saying so, and fails after so many layers.
#[derive(Debug)]
struct Fails(AtomicUsize);

impl EvictionPolicy for Fails {
    fn decide(&self, seen: &Observation<'_>, _lanes: &mut [LaneEditor<'_>]) -> Result<(), PolicyError> {
        if self.0.fetch_sub(1, Ordering::Relaxed) == 0 {
            let (expected, got) = (1, 2);
            return Err(PolicyError::Mismatch { what: "teeth", layer: seen.layer, expected, got });
        }
        Ok(())
    }
}

#[test]
fn a_failed_step_ends_everything_with_an_error_and_the_next_call_says_so() {
    let model = Model::open("gpt2_dcp");
    // Three layers a step: the fifth step fails in its second.
    let policy = Arc::new(Fails(AtomicUsize::new(13)));
    let mut engine = engine(&model, policy, EngineOptions { max_batch: 2, ..EngineOptions::default() });
    let sink = Sink::default();
    engine.trace_to(sink.writer(&model, "none"));
    let ids: Vec<SequenceId> = (0..3).map(|_| engine.submit(request(20, 30)).unwrap()).collect();
    let (mut tokens, mut failed) = (0, Vec::new());
    while failed.is_empty() {
        for output in engine.step().unwrap() {
            match output {
                Output::Token { .. } => tokens += 1,
                Output::Prompt { .. } => {}
                Output::Failed { id, error } => {
                    assert!(matches!(error, EngineError::Poisoned { .. }));
                    assert!(error.to_string().contains("teeth"), "{error}");
                    failed.push(id);
                }
                Output::Finished(done) => panic!("{done:?}"),
            }
        }
    }
    assert_eq!(tokens, 8, "two sequences, four steps");
    assert_eq!(failed, ids, "the queued one too");
    assert!(engine.is_idle());
    assert_eq!(engine.usage().unwrap().held_bytes, 0);
    let poisoned = |error: EngineError| {
        assert!(
            matches!(error, EngineError::Poisoned { .. }) && error.to_string().contains("teeth"),
            "{error}"
        );
    };
    for _ in 0..2 {
        poisoned(engine.step().unwrap_err());
        poisoned(engine.submit(request(2, 3)).unwrap_err());
        poisoned(engine.finish(ids[0], FinishReason::Cancelled).unwrap_err());
    }
    engine.finish_trace().unwrap();
    let ends = ends(&sink);
    assert_eq!(ends.len(), 3);
    assert!(ends.values().all(|end| end.finish_reason == "error" && end.live == [0; 3]), "{ends:?}");
    let timeline = Timeline::read(&sink.bytes()[..]).unwrap();
    assert_eq!(timeline.sequences[&ids[0].0].ids.len(), 23, "the tokens of the failed step are not in it");
}

/// All texts of four prompts, and what the trace says.
fn texts(model: &Model, sink: Option<&Sink>) -> (Vec<Vec<u32>>, Result<(), EngineError>) {
    let spec = "dcp(gates=pruning.safetensors)";
    let mut engine = engine(
        model,
        model.method(spec),
        EngineOptions { chunk: 8, max_batch: 3, ..EngineOptions::default() },
    );
    if let Some(sink) = sink {
        engine.trace_to(sink.writer(model, spec));
    }
    let ids: Vec<_> = (1..5).map(|n| engine.submit(request(9 * n, 12)).unwrap()).collect();
    let mut texts = vec![Vec::new(); 4];
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Finished(done) => {
                    texts[ids.iter().position(|&id| id == done.id).unwrap()] = done.token_ids;
                }
                Output::Failed { error, .. } => panic!("{error}"),
                Output::Token { .. } | Output::Prompt { .. } => {}
            }
        }
    }
    (texts, engine.finish_trace())
}

#[test]
fn a_trace_that_cannot_be_written_costs_no_text_and_is_told_once() {
    let model = Model::open("gpt2_dcp");
    let (expected, untraced) = texts(&model, None);
    untraced.unwrap();
    let whole = Sink::default();
    let (traced, outcome) = texts(&model, Some(&whole));
    outcome.unwrap();
    assert_eq!(traced, expected);
    let length = whole.bytes().len();
    for room in [0, 100, length / 2, length - 1] {
        let full = Sink::of(room);
        let (traced, outcome) = texts(&model, Some(&full));
        assert_eq!(traced, expected, "room for {room} of {length} bytes");
        let error = outcome.unwrap_err();
        assert!(matches!(error, EngineError::Trace(_)), "{error:?}");
        assert!(error.to_string().contains("trace"), "{error}");
        assert!(whole.bytes().starts_with(&full.bytes()), "what is written is written well");
    }
}

#[test]
fn a_queued_request_is_cancelled_while_a_trace_is_written() {
    let model = Model::open("gpt2_dcp");
    let mut engine =
        engine(&model, Arc::new(KeepAll), EngineOptions { max_batch: 1, ..EngineOptions::default() });
    let sink = Sink::default();
    engine.trace_to(sink.writer(&model, "none"));
    let runs = engine.submit(request(5, 4)).unwrap();
    let queued = engine.submit(request(6, 4)).unwrap();
    engine.step().unwrap();
    let finished = engine.finish(queued, FinishReason::Cancelled).unwrap().unwrap();
    assert_eq!((finished.id, finished.reason), (queued, FinishReason::Cancelled));
    assert!(finished.token_ids.is_empty());
    assert!(engine.finish(queued, FinishReason::Cancelled).unwrap().is_none());
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    engine.finish_trace().unwrap();
    let ends = ends(&sink);
    assert_eq!(ends[&queued.0].finish_reason, "cancelled");
    assert_eq!(ends[&queued.0].live, [0; 3]);
    assert_eq!(ends[&runs.0].finish_reason, "length");
}

#[test]
fn a_sequence_that_failed_has_its_end_in_the_trace() {
    let model = Model::open("gpt2_dcp");
    // It never says how much it keeps, so nobody can refuse the prompt beforehand.
    let policy = Arc::new(Fails(AtomicUsize::new(usize::MAX)));
    let page = model.decoder.page_pool(&KeepAll, DType::F32, None).unwrap().layout().bytes();
    let mut engine =
        engine(&model, policy, EngineOptions { kv_limit: Some(5 * page), ..EngineOptions::default() });
    let sink = Sink::default();
    engine.trace_to(sink.writer(&model, "none"));
    let large = engine.submit(request(60, 5)).unwrap();
    let small = engine.submit(request(30, 3)).unwrap();
    let mut failed = Vec::new();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            if let Output::Failed { id, error } = output {
                let EngineError::OutOfMemory(shortage) = error else { panic!("{error}") };
                assert_eq!((shortage.held_pages, shortage.wanted_pages), (3, 3));
                failed.push(id);
            }
        }
    }
    assert_eq!(failed, [large]);
    engine.finish_trace().unwrap();
    let ends = ends(&sink);
    assert_eq!(
        (ends[&large.0].finish_reason.as_str(), &ends[&large.0].live[..]),
        ("error", &[32, 32, 32][..])
    );
    assert_eq!(
        (ends[&small.0].finish_reason.as_str(), &ends[&small.0].live[..]),
        ("length", &[32, 32, 32][..])
    );
}
