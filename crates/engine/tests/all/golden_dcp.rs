//! The learned method in hard mode against the float64 oracle of its equations.

use crate::support::{Model, argmax, distance, floats, golden, ids, integers, json};
use dropcap_cache::NEVER;
use dropcap_engine::{Engine, EngineOptions, Output, Request, Sampling};
use dropcap_weights::TensorFile;

/// From the README of the vectors.
const LOGITS: f32 = 2e-5;
const CASES: [&str; 5] = ["L1", "L2", "L17", "L64", "L128"];

fn spec(propagate: usize) -> &'static str {
    ["dcp(gates=pruning.safetensors)", "dcp(gates=pruning.safetensors, propagate_in_depth=true)"][propagate]
}

/// Deaths as our lifetimes know them: those that a later query of the same text brought.
fn deaths(
    file: &TensorFile,
    name: &str,
    row: usize,
    rows: usize,
    width: usize,
    length: usize,
) -> Vec<Vec<u32>> {
    let all = integers(file, name);
    let layers = all.len() / (rows * width);
    let layer = |layer: usize| {
        let first = (layer * rows + row) * width;
        all[first..first + length].iter().map(|&death| u32::try_from(death).unwrap()).collect()
    };
    (0..layers).map(layer).collect()
}

fn death_name(propagate: usize) -> &'static str {
    ["death_own", "death_effective"][propagate]
}

#[test]
fn hard_logits_and_deaths_agree_with_the_oracle_in_any_chunks() {
    let model = Model::open("gpt2_dcp");
    let hard = TensorFile::open(&golden("gpt2_dcp/hard.safetensors")).unwrap();
    for propagate in [0, 1] {
        let policy = model.method(spec(propagate));
        for case in CASES {
            let text = ids(&hard, &format!("{case}.ids"));
            let expected = floats(&hard, &format!("prop{propagate}.{case}.logits"));
            let name = format!("prop{propagate}.{case}.{}", death_name(propagate));
            let expected_deaths = deaths(&hard, &name, 0, 1, text.len(), text.len());
            for chunk in [1, 5, 31, 32, 33, text.len()] {
                let found = model.evaluate(policy.as_ref(), &text, chunk);
                let off = distance(&found.logits, &expected);
                assert!(off <= LOGITS, "prop{propagate} {case} in chunks of {chunk}: off by {off}");
                assert_eq!(found.expires_at, expected_deaths, "prop{propagate} {case} in chunks of {chunk}");
            }
        }
    }
}

#[test]
fn rows_of_unequal_length_agree_with_the_oracle_as_one_ragged_batch() {
    let model = Model::open("gpt2_dcp");
    let hard = TensorFile::open(&golden("gpt2_dcp/hard.safetensors")).unwrap();
    let lengths = integers(&hard, "padded.lengths");
    let width = hard.info("padded.ids").unwrap().shape[1];
    let all = ids(&hard, "padded.ids");
    let vocabulary = model.checkpoint.config().vocabulary;
    for propagate in [0, 1] {
        let policy = model.method(spec(propagate));
        let logits = floats(&hard, &format!("prop{propagate}.padded.logits"));
        for (row, &length) in lengths.iter().enumerate() {
            let length = length as usize;
            let found = model.evaluate(policy.as_ref(), &all[row * width..row * width + length], 4);
            let first = row * width * vocabulary;
            let off = distance(&found.logits, &logits[first..first + length * vocabulary]);
            assert!(off <= LOGITS, "prop{propagate} row {row}: off by {off}");
            let name = format!("prop{propagate}.padded.{}", death_name(propagate));
            assert_eq!(found.expires_at, deaths(&hard, &name, row, lengths.len(), width, length));
        }
    }
}

#[test]
fn greedy_generation_agrees_with_the_oracle_token_by_token_and_death_by_death() {
    let model = Model::open("gpt2_dcp");
    let cases = json("gpt2_dcp/generation.json");
    for (name, case) in cases.as_object().unwrap().iter().filter(|(name, _)| name.contains(".prop")) {
        let propagate = usize::from(name.ends_with("prop1"));
        let policy = model.method(spec(propagate));
        let prompts: Vec<Vec<u32>> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
        let expected: Vec<Vec<u32>> = serde_json::from_value(case["ids"].clone()).unwrap();
        // All rows of a case run as one ragged batch.
        let (decoder, team) = (model.decoder.clone(), model.team.clone());
        let mut engine = Engine::new(decoder, policy.clone(), team, EngineOptions::default()).unwrap();
        let mut sequences = Vec::new();
        for (prompt, text) in prompts.iter().zip(&expected) {
            let request = Request {
                prompt: prompt.clone(),
                max_tokens: text.len() - prompt.len(),
                sampling: Sampling::default(),
                ..Request::default()
            };
            sequences.push(engine.submit(request).unwrap());
        }
        let mut finished = 0;
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                let Output::Finished(done) = output else { continue };
                let row = sequences.iter().position(|id| *id == done.id).unwrap();
                assert_eq!(done.token_ids, expected[row][prompts[row].len()..], "{name} row {row}");
                finished += 1;
            }
        }
        assert_eq!(finished, prompts.len());
        for (row, text) in expected.iter().enumerate() {
            let fed = &text[..text.len() - 1];
            let found = model.evaluate(policy.as_ref(), fed, 7);
            let deaths: Vec<Vec<Option<u32>>> =
                serde_json::from_value(case[death_name(propagate)][row].clone()).unwrap();
            let deaths: Vec<Vec<u32>> = deaths
                .into_iter()
                .map(|layer| layer.into_iter().map(|death| death.unwrap_or(NEVER)).collect())
                .collect();
            assert_eq!(found.expires_at, deaths, "{name} row {row}");
            let last = &found.logits[found.logits.len() - 97..];
            assert_eq!(argmax(last), *text.last().unwrap());
        }
    }
}
