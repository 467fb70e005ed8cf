//! StreamingLLM as NVIDIA/kvpress applies it: once, at the end of a dense prompt.

use crate::support::{Model, argmax, distance, floats, golden, ids, json};
use dropcap_cache::{KvCache, LayerIdx};
use dropcap_kernels::DType;
use dropcap_model::{Logits, Scratch, Segment};
use dropcap_policy::Stage;
use dropcap_weights::TensorFile;

/// From the README of the vectors, while the kept sets agree.
const LOGITS: f32 = 2e-4;

#[test]
fn kept_sets_logits_and_tokens_agree_with_kvpress() {
    let folders = crate::support::MODELS
        .iter()
        .filter(|folder| json_of(folder).is_some_and(|all| all["streaming_llm"].is_object()));
    let mut cases = 0;
    for folder in folders {
        let model = Model::open(folder);
        let vectors = TensorFile::open(&golden(folder).join("vectors.safetensors")).unwrap();
        let (context, question) = (ids(&vectors, "press.context"), ids(&vectors, "press.question"));
        let expected = json_of(folder).unwrap();
        for (removed, keep) in [("r0.25", "0.75"), ("r0.5", "0.5"), ("r0.8", "0.2")] {
            let case = &expected["streaming_llm"][removed];
            let policy = model.method(&format!("streaming_llm(sinks=4, when=prefill_end)@{keep}"));
            let pool = model.decoder.page_pool(policy.as_ref(), DType::F32, None).unwrap();
            let mut cache = KvCache::new(&pool, model.decoder.config().layers, 1);
            let (mut scratch, mut logits) = (Scratch::default(), Vec::new());
            let mut feed = |cache: &mut KvCache, text: &[u32], prompt_ends: bool, out: &mut Vec<f32>| {
                let stage = if prompt_ends { Stage::PromptEnd } else { Stage::Prompt };
                let mut segments = [Segment { cache, ids: text, stage, budget: None, logits: Logits::Last }];
                model
                    .decoder
                    .forward(
                        &model.team,
                        policy.as_ref(),
                        &mut segments,
                        &mut scratch,
                        &mut |_, _, _, _| {},
                        out,
                    )
                    .unwrap();
            };
            for (index, part) in context.chunks(33).enumerate() {
                feed(&mut cache, part, (index + 1) * 33 >= context.len(), &mut logits);
            }
            for layer in 0..cache.layers() {
                let mut kept = cache.lanes(LayerIdx(layer))[0].positions().to_vec();
                kept.sort_unstable();
                let wanted: Vec<Vec<u32>> =
                    serde_json::from_value(case["kept"][layer.to_string()].clone()).unwrap();
                assert!(
                    wanted.iter().all(|head| *head == kept),
                    "{folder} {removed} layer {layer}: {kept:?}"
                );
            }
            let wanted: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let rows = floats(&vectors, &format!("streaming_llm.{removed}.logits"));
            let vocabulary = model.decoder.config().vocabulary;
            let mut next = question.clone();
            for (step, &token) in wanted.iter().enumerate() {
                feed(&mut cache, &next, false, &mut logits);
                if let Some(row) = rows.chunks_exact(vocabulary).nth(step) {
                    let off = distance(&logits, row);
                    assert!(off <= LOGITS, "{folder} {removed} step {step}: logits off by {off}");
                }
                assert_eq!(argmax(&logits), token, "{folder} {removed} step {step}");
                next = vec![token];
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 15, "five models, three ratios");
}

fn json_of(folder: &str) -> Option<serde_json::Value> {
    golden(folder).join("expected.json").exists().then(|| json(&format!("{folder}/expected.json")))
}
