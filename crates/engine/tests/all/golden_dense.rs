//! Dense logits and greedy tokens of seven checkpoints made with other people's code.

use std::sync::Arc;

use crate::support::{Model, distance, floats, golden, ids, json};
use dropcap_cache::NEVER;
use dropcap_engine::{Engine, EngineOptions, Output, Request, Sampling};
use dropcap_policy::KeepAll;
use dropcap_weights::TensorFile;

/// What an honest float32 implementation reaches, from the README of the vectors.
const LOGITS: f32 = 1e-4;
const LENGTHS: [usize; 4] = [1, 7, 40, 97];

#[test]
fn dense_logits_agree_with_transformers_for_every_family() {
    for folder in crate::support::MODELS.iter().filter(|folder| folder.starts_with("llama_kvpress")) {
        let model = Model::open(folder);
        let vectors = TensorFile::open(&golden(folder).join("vectors.safetensors")).unwrap();
        for length in LENGTHS {
            let ids = ids(&vectors, &format!("dense.{length}.ids"));
            let expected = floats(&vectors, &format!("dense.{length}.logits"));
            let found = model.evaluate(&KeepAll, &ids, length).logits;
            let off = distance(&found, &expected);
            assert!(off <= LOGITS, "{folder}, {length} tokens: logits off by {off}");
        }
    }
}

#[test]
fn greedy_tokens_agree_with_transformers_for_every_family() {
    for folder in crate::support::MODELS.iter().filter(|folder| folder.starts_with("llama_kvpress")) {
        let model = Model::open(folder);
        let expected = json(&format!("{folder}/expected.json"));
        let vectors = TensorFile::open(&golden(folder).join("vectors.safetensors")).unwrap();
        let (team, policy) = (model.team.clone(), Arc::new(KeepAll));
        let mut engine = Engine::new(model.decoder.clone(), policy, team, EngineOptions::default()).unwrap();
        let mut wanted = Vec::new();
        for length in LENGTHS {
            let tokens: Vec<u32> =
                serde_json::from_value(expected["dense"][length.to_string()]["greedy"].clone()).unwrap();
            let prompt = ids(&vectors, &format!("dense.{length}.ids"));
            let request = Request {
                prompt,
                max_tokens: tokens.len(),
                sampling: Sampling::default(),
                ..Request::default()
            };
            wanted.push((engine.submit(request).unwrap(), tokens));
        }
        let mut finished = 0;
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                if let Output::Finished(done) = output {
                    let (_, tokens) = wanted.iter().find(|(id, _)| *id == done.id).unwrap();
                    assert_eq!(&done.token_ids, tokens, "{folder}, prompt of {}", done.prompt_tokens);
                    finished += 1;
                }
            }
        }
        assert_eq!(finished, LENGTHS.len());
    }
}

#[test]
fn a_config_in_the_older_style_gives_the_same_bits() {
    for folder in crate::support::MODELS.iter().filter(|folder| folder.starts_with("llama_kvpress")) {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(golden(folder).join("config_v4.json"), copy.path().join("config.json")).unwrap();
        let weights = "model.safetensors";
        std::fs::copy(golden(folder).join(weights), copy.path().join(weights)).unwrap();
        let (new, old) = (Model::open(folder), Model::open(copy.path().to_str().unwrap()));
        let text: Vec<u32> = (0..40).collect();
        assert_eq!(
            new.evaluate(&KeepAll, &text, 40).logits,
            old.evaluate(&KeepAll, &text, 40).logits,
            "{folder}"
        );
    }
}

#[test]
fn chunks_of_a_dense_prompt_do_not_change_a_bit() {
    let text: Vec<u32> = (0..97).map(|i| i * 37 % 97).collect();
    for folder in crate::pruned_equals_masked::without_window() {
        let model = Model::open(folder);
        let whole = model.evaluate(&KeepAll, &text, text.len());
        for chunk in [1, 31, 32, 33] {
            let found = model.evaluate(&KeepAll, &text, chunk);
            assert!(found.logits == whole.logits, "{folder}, chunks of {chunk}");
            assert_eq!(found.expires_at, whole.expires_at);
        }
    }
}

#[test]
fn a_sliding_window_is_a_lifetime_and_frees_memory() {
    let model = Model::open("llama_kvpress/mistral_sw24");
    let text: Vec<u32> = (0..97).collect();
    let found = model.evaluate(&KeepAll, &text, 16);
    for layer in &found.expires_at {
        assert!(layer.iter().enumerate().all(|(position, &expiry)| expiry == position as u32 + 24));
    }
    let layers = model.checkpoint.config().layers as u64;
    // After query 96 the next query, 97, sees positions 74 to 96 and itself.
    assert_eq!(found.report.live_entries, layers * 23);
    assert_eq!(found.report.logical_entries, layers * 97);
    let full = Model::open("llama_kvpress/mistral").evaluate(&KeepAll, &text, 16);
    assert!(full.expires_at.iter().flatten().all(|&expiry| expiry == NEVER));
}
