//! A real trained model writes a coherent story, token for token as its float32 reference does.
//!
//! The model is not part of this repository (its licence is not established): the test runs where its folder
//! is given in DROPCAP_TINYSTORIES or lies beside the checkout, and says so loudly where it cannot.

use std::path::PathBuf;
use std::sync::Arc;

use crate::support::Model;
use dropcap_engine::{Engine, EngineOptions, Output, Request, Sampling};
use dropcap_model::Tokenizer;
use dropcap_policy::KeepAll;

fn folder() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/models/TinyStories-656K");
    let given = std::env::var_os("DROPCAP_TINYSTORIES").map(PathBuf::from);
    given.or_else(|| Some(PathBuf::from(beside))).filter(|folder| folder.join("model.safetensors").exists())
}

#[test]
fn a_trained_model_writes_the_story_of_its_reference() {
    let Some(folder) = folder() else {
        eprintln!("SKIPPED: set DROPCAP_TINYSTORIES to a folder with TinyStories-656K to run this test");
        return;
    };
    let expected = crate::support::json("tinystories.json");
    let model = Model::open(folder.to_str().unwrap());
    let tokenizer = Tokenizer::open(&folder).unwrap();
    let options = EngineOptions { chunk: 3, ..EngineOptions::default() };
    let mut engine =
        Engine::new(model.decoder.clone(), Arc::new(KeepAll), model.team.clone(), options).unwrap();
    let mut wanted = Vec::new();
    for case in expected["cases"].as_array().unwrap() {
        let prompt: Vec<u32> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(case["prompt"].as_str().unwrap()).unwrap(), prompt);
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let request =
            Request { prompt, max_tokens: ids.len(), sampling: Sampling::default(), ..Request::default() };
        wanted.push((engine.submit(request).unwrap(), ids));
    }
    let mut checked = 0;
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            if let Output::Finished(done) = output {
                assert_eq!(done.token_ids, wanted.iter().find(|(id, _)| *id == done.id).unwrap().1);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, wanted.len());
}
