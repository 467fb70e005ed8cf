//! Keys that are turned to consecutive positions where a prompt ends, in the engine. What follows them is compared with kvpress in
//! `golden_presses.rs`.

use crate::support::naive::Naive;
use crate::support::running::all;
use crate::support::{Model, distance};
use dropcap_cache::{KvCache, LayerIdx};
use dropcap_engine::{Engine, EngineOptions, Request};
use dropcap_kernels::DType;
use dropcap_model::{Logits, ModelError, Scratch, Segment};
use dropcap_policy::{EvictionPolicy, Stage};

/// f32 against f64, as for pruned runs of these models.
const LOGITS: f32 = 2e-4;

const METHODS: [&str; 4] = [
    "key_rerotation(snapkv(window=8))@0.4",
    "key_rerotation(tova(when=every_query))@20",
    "streaming_llm(sinks=2, when=prefill_end, positions=cache)@20",
    "streaming_llm(sinks=3, recent=20, positions=cache)",
];

fn engine(model: &Model, method: &str, options: EngineOptions) -> Engine {
    Engine::new(model.decoder.clone(), model.method(method), model.team.clone(), options).unwrap()
}

fn request(length: u32, seed: u32) -> Request {
    let prompt = (0..length).map(|i| (i * 7 + i / 5 + seed) % 97).collect();
    Request { prompt, max_tokens: 12, ..Request::default() }
}

#[test]
fn texts_that_share_steps_and_beginnings_go_on_as_they_would_alone() {
    let model = Model::open("llama_kvpress/llama");
    let requests = [request(150, 3), request(40, 5), request(10, 3), request(150, 3)];
    for method in METHODS {
        let alone: Vec<Vec<u32>> = requests
            .iter()
            .map(|one| {
                let mut engine = engine(&model, method, EngineOptions::default());
                all(&mut engine, std::slice::from_ref(one))[0].token_ids.clone()
            })
            .collect();
        let options = EngineOptions { chunk: 48, prefix_bytes: 1 << 30, ..EngineOptions::default() };
        let mut together = engine(&model, method, options);
        for round in 0..2 {
            let found = all(&mut together, &requests);
            for (number, (found, alone)) in found.iter().zip(&alone).enumerate() {
                assert_eq!(&found.token_ids, alone, "{method}, round {round}, text {number}");
            }
            assert!(round == 0 || found[0].cached_tokens > 0, "{method}: no beginning was shared");
        }
    }
}

#[test]
fn where_nothing_goes_nothing_is_turned() {
    let model = Model::open("llama_kvpress/qwen3");
    let dense = all(&mut engine(&model, "none", EngineOptions::default()), &[request(60, 1)]);
    for method in [
        "key_rerotation(keydiff)@1.0",
        "streaming_llm(when=prefill_end, positions=cache)@512",
        "streaming_llm(positions=cache)@512",
    ] {
        let kept = all(&mut engine(&model, method, EngineOptions::default()), &[request(60, 1)]);
        assert_eq!(kept[0].token_ids, dense[0].token_ids, "{method}");
    }
}

#[test]
fn lifetimes_stay_those_of_the_text_and_a_second_prompt_is_refused() {
    let model = Model::open("llama_kvpress/llama");
    let policy = model.method("key_rerotation(knorm)@10");
    let pool = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap();
    let lanes = model.decoder.lanes_per_layer(policy.as_ref());
    let mut cache = KvCache::new(&pool, model.decoder.config().layers, lanes);
    let (mut scratch, mut logits) = (Scratch::default(), Vec::new());
    let mut feed = |cache: &mut KvCache, ids: &[u32], stage| {
        let mut segments = [Segment { cache, ids, stage, budget: None, logits: Logits::Last }];
        let (team, died) = (&model.team, &mut |_, _, _, _| {});
        model.decoder.forward(team, policy.as_ref(), &mut segments, &mut scratch, died, &mut logits)
    };
    let text = request(50, 2).prompt;
    feed(&mut cache, &text, Stage::PromptEnd).unwrap();
    assert_eq!((cache.next_position(), cache.shift()), (50, 40));
    feed(&mut cache, &[7, 8], Stage::Behind).unwrap();
    let lane = &cache.lanes(LayerIdx(1))[0];
    assert_eq!((lane.len(), lane.positions().iter().max()), (12, Some(&51)));
    let refused = feed(&mut cache, &[7, 8], Stage::PromptEnd).unwrap_err();
    assert!(matches!(refused, ModelError::RenumberedBefore), "{refused}");
    assert_eq!(cache.next_position(), 52, "nothing has changed");
}

#[test]
fn a_rolling_window_turns_keys_by_their_place_as_a_decoder_of_matrices_does() {
    for folder in ["llama_kvpress/llama", "llama_kvpress/qwen3"] {
        let model = Model::open(folder);
        let layers = model.decoder.config().layers;
        let text = request(70, 4).prompt;
        for (sinks, recent) in [(3, 20), (0, 9), (5, 1)] {
            let ends = |p: u32| if p < sinks { u32::MAX } else { p + recent };
            let lifetimes = vec![(0..70).map(ends).collect::<Vec<u32>>(); layers];
            let mut naive = Naive::open(folder, model.decoder.config());
            naive.by_place = true;
            let expected = naive.logits(&text, &lifetimes, 1);
            let policy =
                model.method(&format!("streaming_llm(sinks={sinks}, recent={recent}, positions=cache)"));
            let pool = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap();
            for chunk in [1, 16, 70] {
                let mut cache = KvCache::new(&pool, layers, 1);
                let (mut scratch, mut logits, mut found) = (Scratch::default(), Vec::new(), Vec::new());
                for ids in text.chunks(chunk) {
                    let (stage, cache) = (Stage::Prompt, &mut cache);
                    let mut segments = [Segment { cache, ids, stage, budget: None, logits: Logits::All }];
                    let (team, died) = (&model.team, &mut |_, _, _, _| {});
                    let (policy, decoder) = (policy.as_ref(), &model.decoder);
                    decoder.forward(team, policy, &mut segments, &mut scratch, died, &mut logits).unwrap();
                    found.extend_from_slice(&logits);
                }
                let off = distance(&found, &expected);
                assert!(off <= LOGITS, "{folder}, {sinks} and {recent}, chunks of {chunk}: off by {off}");
            }
        }
    }
}

#[test]
fn models_for_which_it_means_nothing_are_refused_in_words() {
    for (folder, words) in [("gpt2m", "does not turn its keys"), ("mistral_sw24", "sliding windows")] {
        let model = Model::open(&format!("llama_kvpress/{folder}"));
        for method in METHODS {
            let policy = model.method(method);
            let needs = policy.needs();
            assert!(needs.renumbers || needs.anchored.is_some());
            let options = EngineOptions::default();
            let refused =
                Engine::new(model.decoder.clone(), policy, model.team.clone(), options).unwrap_err();
            assert!(refused.to_string().contains(words), "{folder}, {method}: {refused}");
        }
    }
}
