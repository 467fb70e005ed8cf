//! What a trace says of the votes that killed.

use std::sync::Arc;

use crate::sink::Sink;
use crate::support::{Model, golden, ids};
use dropcap_engine::{Engine, EngineOptions, Request, VoteScores};
use dropcap_methods::{Gates, LayerGates};
use dropcap_policy::EvictionPolicy;
use dropcap_trace::{SequenceTimeline, Timeline};

const LAYERS: usize = 3;
/// Sums of 16 products of 48 each in f32, twice in another order.
const ROUNDING: f32 = 1e-4;

/// What becomes of a text of 64 tokens, read in chunks.
fn fates(model: &Model, policy: Arc<dyn EvictionPolicy>, chunk: usize) -> SequenceTimeline {
    let hard = dropcap_weights::TensorFile::open(&golden("gpt2_dcp/hard.safetensors")).unwrap();
    let (policy, scores) = VoteScores::of(policy);
    let options = EngineOptions { chunk, ..EngineOptions::default() };
    let mut engine = Engine::new(model.decoder.clone(), policy, model.team.clone(), options).unwrap();
    let sink = Sink::default();
    engine.trace_to(sink.writer(model, "dcp"));
    engine.score_trace(scores);
    let prompt = ids(&hard, "L64.ids");
    let request = Request { prompt, max_tokens: 4, ..Request::default() };
    engine.submit(request).unwrap();
    while !engine.is_idle() {
        engine.step().unwrap();
    }
    engine.finish_trace().unwrap();
    Timeline::read(&*sink.bytes()).unwrap().sequences.remove(&0).unwrap()
}

#[test]
fn every_entry_that_a_vote_killed_has_its_score_whatever_the_chunks() {
    let model = Model::open("gpt2_dcp");
    let spec = "dcp(gates=pruning.safetensors)";
    let whole = fates(&model, model.method(spec), 64);
    for chunk in [1, 7] {
        let cut = fates(&model, model.method(spec), chunk);
        for layer in 0..LAYERS {
            assert!(whole.fates(layer, 0).count() > 10);
            for ((position, one), (_, other)) in whole.fates(layer, 0).zip(cut.fates(layer, 0)) {
                assert_eq!((one.expires_at, one.killer), (other.expires_at, other.killer));
                let (one, other) = (one.score.unwrap(), other.score.unwrap());
                assert!(one <= 0.0 && (one - other).abs() < ROUNDING, "{layer} {position}: {one} {other}");
            }
        }
    }
}

#[test]
fn a_score_is_how_far_a_bias_would_have_to_rise_to_spare_the_entry() {
    let model = Model::open("gpt2_dcp");
    let file = golden("gpt2_dcp/pruning.safetensors");
    let gates = Gates::load(&file, LAYERS, 1, 48, None).unwrap();
    let policy = |gates: &Gates| Arc::new(dropcap_methods::dcp(gates, false).unwrap());
    let before = fates(&model, policy(&gates), 64);
    // The states that layer 0 votes on depend on no vote.
    let mut scores: Vec<f32> = before.fates(0, 0).map(|(_, fate)| fate.score.unwrap()).collect();
    scores.sort_by(f32::total_cmp);
    let rise = -scores[scores.len() / 2] + 2.0 * ROUNDING;
    let raised = gates.layers().iter().map(|layer| LayerGates {
        bias: layer.bias.iter().map(|bias| bias + rise).collect(),
        ..layer.clone()
    });
    let raised = Gates::new(48, gates.width(), raised.collect()).unwrap();
    let after = fates(&model, policy(&raised), 64);
    let mut spared = 0;
    for (position, fate) in before.fates(0, 0) {
        let still = after.fate(0, 0, position).is_some_and(|after| after.killer == fate.killer);
        let score = fate.score.unwrap() + rise;
        if score.abs() > ROUNDING {
            assert_eq!(still, score <= 0.0, "{position}: {fate:?}");
            spared += usize::from(!still);
        }
    }
    assert!(spared > 5);
}

#[test]
fn what_only_leaves_a_window_has_no_score() {
    let model = Model::open("gpt2_dcp");
    let window = fates(&model, model.method("streaming_llm(sinks=2, recent=8)"), 16);
    assert!(window.fates(0, 0).count() > 40);
    assert!(window.fates(0, 0).all(|(_, fate)| fate.score.is_none()));
}
