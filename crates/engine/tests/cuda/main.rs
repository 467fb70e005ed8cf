//! The device gives what the processor gives: goldens, greedy ids, lifetimes, memory. Skips loudly without a GPU.
#![cfg(test)]

mod codes;
mod on_device;
mod pages;
mod quantised;
mod rankings;
mod serving;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;

use dropcap_engine::{
    Engine, EngineError, EngineOptions, FinishReason, Output, Request, Sampling, evaluate_on_device,
};
use dropcap_kernels::{DType, KvFormat};
use dropcap_methods::{Gates, LayerGates, dcp};
use dropcap_model::device::{DeviceDecoder, DeviceSegment, Slot, Wanted};
use dropcap_policy::{EvictionPolicy, Floors, KeepAll, Rules, Stage};
use dropcap_weights::TensorFile;
use on_device::{OnDevice, device};
use support::naive::Naive;
use support::running::all;
use support::{MODELS, Model, argmax, distance, floats, golden, ids, integers, json};

/// What an honest float32 implementation reaches, from the READMEs of the vectors.
const DENSE: f32 = 1e-4;
const LEARNED: f32 = 2e-5;
const STREAMING: f32 = 2e-4;
/// Two float32 implementations with sums in different orders.
const AGAINST_HOST: f32 = 1e-4;
/// Weights, cache and activations of 8 bits of mantissa: the error of all logits against their size.
const BF16: f32 = 0.03;

fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request { prompt, max_tokens, sampling: Sampling::default(), ..Request::default() }
}

/// Runs requests together and gives their texts in order.
fn texts(engine: &mut Engine, requests: &[Request]) -> Vec<Vec<u32>> {
    all(engine, requests).into_iter().map(|done| done.token_ids).collect()
}

#[test]
fn cuda_dense_logits_and_greedy_tokens_agree_with_transformers() {
    let Some(device) = device("cuda_dense_logits_and_greedy_tokens_agree_with_transformers") else { return };
    for folder in MODELS.iter().filter(|folder| folder.starts_with("llama_kvpress")) {
        let model = OnDevice::open(&device, folder, DType::F32);
        let vectors = TensorFile::open(&golden(folder).join("vectors.safetensors")).unwrap();
        let expected = json(&format!("{folder}/expected.json"));
        let (mut requests, mut wanted) = (Vec::new(), Vec::new());
        for length in [1usize, 7, 40, 97] {
            let prompt = ids(&vectors, &format!("dense.{length}.ids"));
            let logits = floats(&vectors, &format!("dense.{length}.logits"));
            for chunk in [length, 16] {
                let off = distance(&model.evaluate(&KeepAll, &prompt, chunk).logits, &logits);
                assert!(off <= DENSE, "{folder}, {length} tokens in chunks of {chunk}: off by {off}");
            }
            let tokens: Vec<u32> =
                serde_json::from_value(expected["dense"][length.to_string()]["greedy"].clone()).unwrap();
            requests.push(greedy(prompt, tokens.len()));
            wanted.push(tokens);
        }
        assert_eq!(
            texts(&mut model.engine(Arc::new(KeepAll), EngineOptions::default()), &requests),
            wanted,
            "{folder}"
        );
    }
}

#[test]
fn cuda_hard_gates_agree_with_the_oracle_death_by_death() {
    let Some(device) = device("cuda_hard_gates_agree_with_the_oracle_death_by_death") else { return };
    let model = OnDevice::open(&device, "gpt2_dcp", DType::F32);
    let hard = TensorFile::open(&golden("gpt2_dcp/hard.safetensors")).unwrap();
    for (propagate, deaths) in [(false, "death_own"), (true, "death_effective")] {
        let policy =
            model.host.method(&format!("dcp(gates=pruning.safetensors, propagate_in_depth={propagate})"));
        let prop = usize::from(propagate);
        for case in ["L1", "L2", "L17", "L64", "L128"] {
            let text = ids(&hard, &format!("{case}.ids"));
            let expected = floats(&hard, &format!("prop{prop}.{case}.logits"));
            let deaths = integers(&hard, &format!("prop{prop}.{case}.{deaths}"));
            let deaths: Vec<u32> = deaths.iter().map(|&death| u32::try_from(death).unwrap()).collect();
            for chunk in [1, 31, 32, text.len()] {
                let found = model.evaluate(policy.as_ref(), &text, chunk);
                assert_eq!(found.expires_at.concat(), deaths, "prop{prop} {case} in chunks of {chunk}");
                let off = distance(&found.logits, &expected);
                assert!(off <= LEARNED, "prop{prop} {case} in chunks of {chunk}: off by {off}");
            }
        }
    }
}

#[test]
fn cuda_generation_with_hard_gates_agrees_with_the_oracle() {
    let Some(device) = device("cuda_generation_with_hard_gates_agrees_with_the_oracle") else { return };
    let model = OnDevice::open(&device, "gpt2_dcp", DType::F32);
    let cases = json("gpt2_dcp/generation.json");
    for (name, case) in cases.as_object().unwrap().iter().filter(|(name, _)| name.contains(".prop")) {
        let propagate = name.ends_with("prop1");
        let policy =
            model.host.method(&format!("dcp(gates=pruning.safetensors, propagate_in_depth={propagate})"));
        let prompts: Vec<Vec<u32>> = serde_json::from_value(case["prompt_ids"].clone()).unwrap();
        let expected: Vec<Vec<u32>> = serde_json::from_value(case["ids"].clone()).unwrap();
        let rows = prompts.iter().zip(&expected);
        let requests: Vec<Request> =
            rows.map(|(prompt, text)| greedy(prompt.clone(), text.len() - prompt.len())).collect();
        let found = texts(&mut model.engine(policy.clone(), EngineOptions::default()), &requests);
        for ((prompt, text), found) in prompts.iter().zip(&expected).zip(found) {
            assert_eq!(found, text[prompt.len()..], "{name}");
        }
    }
}

#[test]
fn cuda_prompt_cuts_agree_with_kvpress() {
    let Some(device) = device("cuda_prompt_cuts_agree_with_kvpress") else { return };
    let mut cases = 0;
    for folder in MODELS {
        let path = golden(folder).join("expected.json");
        if !path.exists() || !json(&format!("{folder}/expected.json"))["streaming_llm"].is_object() {
            continue;
        }
        let expected = json(&format!("{folder}/expected.json"));
        let model = OnDevice::open(&device, folder, DType::F32);
        let vectors = TensorFile::open(&golden(folder).join("vectors.safetensors")).unwrap();
        let (context, question) = (ids(&vectors, "press.context"), ids(&vectors, "press.question"));
        let vocabulary = model.host.checkpoint.config().vocabulary;
        for (removed, keep) in [("r0.25", "0.75"), ("r0.5", "0.5"), ("r0.8", "0.2")] {
            let case = &expected["streaming_llm"][removed];
            let policy = model.host.method(&format!("streaming_llm(sinks=4, when=prefill_end)@{keep}"));
            let mut decoder = model.decoder(policy.as_ref(), 1);
            let slot = decoder.open().unwrap().unwrap();
            let mut position = 0;
            let mut feed = |decoder: &mut DeviceDecoder, text: &[u32], prompt_ends: bool| {
                let segment = DeviceSegment {
                    slot: &slot,
                    ids: text,
                    first_position: position,
                    stage: if prompt_ends { Stage::PromptEnd } else { Stage::Prompt },
                    budget: None,
                    wanted: Wanted::Logits { from: 0, random: None },
                };
                let mut logits = Vec::new();
                decoder.step(&[segment], &mut |rows| logits.extend_from_slice(rows.logits)).unwrap();
                position += text.len() as u32;
                logits[logits.len() - vocabulary..].to_vec()
            };
            for (index, part) in context.chunks(33).enumerate() {
                feed(&mut decoder, part, (index + 1) * 33 >= context.len());
            }
            for (layer, (positions, _)) in decoder.lifetimes(&slot).unwrap().iter().enumerate() {
                let mut kept = positions.clone();
                kept.sort_unstable();
                let wanted: Vec<Vec<u32>> =
                    serde_json::from_value(case["kept"][layer.to_string()].clone()).unwrap();
                assert!(
                    wanted.iter().all(|head| *head == kept),
                    "{folder} {removed} layer {layer}: {kept:?}"
                );
            }
            let tokens: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let rows = floats(&vectors, &format!("streaming_llm.{removed}.logits"));
            let mut next = question.clone();
            for (step, &token) in tokens.iter().enumerate() {
                let logits = feed(&mut decoder, &next, false);
                if let Some(row) = rows.chunks_exact(vocabulary).nth(step) {
                    let off = distance(&logits, row);
                    assert!(off <= STREAMING, "{folder} {removed} step {step}: off by {off}");
                }
                assert_eq!(argmax(&logits), token, "{folder} {removed} step {step}");
                next = vec![token];
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 15, "five models, three ratios");
}

/// Random gates, one per KV head, that refuse now and then.
fn gates_per_head(model: &Model) -> Rules {
    let config = model.checkpoint.config();
    let (heads, width) = (config.kv_heads, 4);
    let mut state = 7u32;
    let mut numbers = |count: usize, scale: f32| -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale
        };
        (0..count).map(|_| next()).collect()
    };
    let layers = (0..config.layers)
        .map(|_| LayerGates {
            query: numbers(heads * width * config.hidden, 0.3),
            key: numbers(heads * width * config.hidden, 0.3),
            bias: vec![1.0; heads],
        })
        .collect();
    dcp(&Gates::new(config.hidden, width, layers).unwrap(), false).unwrap()
}

/// The same for gates that decide at birth, one per KV head or one for all, under floors.
fn gates_at_birth(model: &Model, heads: usize, recent: u32) -> Rules {
    let config = model.checkpoint.config();
    let random = Gates::random(config.layers, config.hidden, heads, 5).unwrap();
    let layers = random.layers().iter().map(|layer| LayerGates {
        query: Vec::new(),
        key: layer.key.clone(),
        bias: vec![0.1; heads],
    });
    let gates = Gates::at_birth(config.hidden, layers.collect()).unwrap();
    dcp(&gates.under(Floors { sinks: 2, recent }), false).unwrap()
}

#[test]
fn cuda_pruned_runs_equal_dense_runs_under_the_mask_of_their_lifetimes() {
    let name = "cuda_pruned_runs_equal_dense_runs_under_the_mask_of_their_lifetimes";
    let Some(device) = device(name) else { return };
    let text: Vec<u32> = (0..97).map(|i| i * 29 % 97).collect();
    for folder in MODELS {
        let model = OnDevice::open(&device, folder, DType::F32);
        let naive = Naive::open(folder, model.host.checkpoint.config());
        let heads = model.host.checkpoint.config().kv_heads;
        let policies: [Arc<dyn EvictionPolicy>; 5] = [
            model.host.method("streaming_llm(sinks=3, recent=17)"),
            model.host.method("simulate(keep=0.3, width=5)"),
            Arc::new(gates_per_head(&model.host)),
            Arc::new(gates_at_birth(&model.host, heads, 0)),
            Arc::new(gates_at_birth(&model.host, 1, 11)),
        ];
        for policy in policies {
            for chunk in [1, 32, 33, 97] {
                let host = model.host.evaluate(policy.as_ref(), &text, chunk);
                let found = model.evaluate(policy.as_ref(), &text, chunk);
                assert_eq!(found.expires_at, host.expires_at, "{folder} {policy:?} chunks of {chunk}");
                assert_eq!(found.report.live_entries, host.report.live_entries, "{folder} {policy:?}");
                assert!(found.report.keep_ratio() < 0.8, "something was forgotten");
                let off = distance(&found.logits, &naive.logits(&text, &found.expires_at, found.lanes));
                assert!(off <= DENSE, "{folder} {policy:?} chunks of {chunk}: off by {off}");
                let off = distance(&found.logits, &host.logits);
                assert!(off <= AGAINST_HOST, "{folder} {policy:?} chunks of {chunk}: {off} from the host");
            }
        }
    }
}

#[test]
fn cuda_batches_give_the_greedy_ids_of_the_processor_and_free_everything() {
    let name = "cuda_batches_give_the_greedy_ids_of_the_processor_and_free_everything";
    let Some(device) = device(name) else { return };
    for folder in ["gpt2_dcp", "llama_kvpress/llama", "llama_kvpress/qwen3", "llama_kvpress/mistral_sw24"] {
        let model = OnDevice::open(&device, folder, DType::F32);
        let specs = ["none", "streaming_llm(sinks=2, recent=9)", "dcp(gates=pruning.safetensors)"];
        let specs = specs.iter().filter(|spec| folder == "gpt2_dcp" || !spec.starts_with("dcp"));
        let named = specs.map(|spec| (*spec, model.host.method(spec)));
        let birth: Arc<dyn EvictionPolicy> = Arc::new(gates_at_birth(&model.host, 1, 4));
        for (spec, policy) in named.chain([("gates at birth", birth)]) {
            let requests: Vec<Request> = (0..11u32)
                .map(|seed| greedy((0..1 + seed * 7).map(|i| (i * 7 + seed) % 97).collect(), 25))
                .collect();
            let options = EngineOptions { chunk: 40, max_batch: 5, ..EngineOptions::default() };
            let (decoder, team) = (model.host.decoder.clone(), model.host.team.clone());
            let mut host = Engine::new(decoder, policy.clone(), team, options.clone()).unwrap();
            let options = EngineOptions { kv_limit: Some(32 << 20), ..options };
            let mut engine = model.engine(policy.clone(), options);
            assert_eq!(texts(&mut engine, &requests), texts(&mut host, &requests), "{folder} {spec}");
            assert_eq!(engine.usage().unwrap().held_bytes, 0);
        }
    }
}

#[test]
fn cuda_sampled_texts_depend_on_the_seed_alone() {
    let Some(device) = device("cuda_sampled_texts_depend_on_the_seed_alone") else { return };
    let model = OnDevice::open(&device, "gpt2_dcp", DType::F32);
    let sampling = |seed| Sampling {
        temperature: 0.8,
        top_k: 40,
        top_p: 0.9,
        repetition_penalty: 1.1,
        seed,
        ..Sampling::default()
    };
    let requests: Vec<Request> =
        (0..6u64).map(|seed| Request { sampling: sampling(seed), ..greedy(vec![5, 7, 11], 30) }).collect();
    let options = EngineOptions { kv_limit: Some(32 << 20), ..EngineOptions::default() };
    let together = texts(&mut model.engine(Arc::new(KeepAll), options.clone()), &requests);
    for (request, text) in requests.iter().zip(&together) {
        assert_eq!(
            &texts(&mut model.engine(Arc::new(KeepAll), options.clone()), std::slice::from_ref(request))[0],
            text
        );
    }
    assert_ne!(together[0], together[1]);
}

#[test]
fn cuda_sixteen_bit_runs_stay_near_the_float32_ones() {
    let Some(device) = device("cuda_sixteen_bit_runs_stay_near_the_float32_ones") else { return };
    let text: Vec<u32> = (0..97).map(|i| i * 31 % 97).collect();
    for folder in MODELS {
        let exact = Model::open(folder);
        for dtype in [DType::Bf16, DType::F16] {
            let model = OnDevice::open(&device, folder, dtype);
            for spec in ["none", "streaming_llm(sinks=3, recent=17)"] {
                let policy = model.host.method(spec);
                let expected = exact.evaluate(policy.as_ref(), &text, 97);
                let found = model.evaluate(policy.as_ref(), &text, 33);
                let norm =
                    |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
                let mut differences = found.logits.iter().zip(&expected.logits).map(|(a, b)| a - b);
                let off = norm(&mut differences) / norm(&mut expected.logits.iter().copied());
                assert!(off <= BF16, "{folder} {dtype} {spec}: off by {off}");
                assert_eq!(found.expires_at, expected.expires_at);
            }
        }
    }
}

#[test]
fn cuda_a_prompt_that_cannot_fit_is_refused_and_a_text_that_outgrows_the_cap_is_delivered() {
    let name = "cuda_a_prompt_that_cannot_fit_is_refused_and_a_text_that_outgrows_the_cap_is_delivered";
    let Some(device) = device(name) else { return };
    let model = OnDevice::open(&device, "gpt2_dcp", DType::F32);
    let page = model.decoder(&KeepAll, 1).page_bytes();
    // Three layers: nine pages hold 96 tokens of one sequence.
    let options = EngineOptions { kv_limit: Some(9 * page), ..EngineOptions::default() };
    let mut engine = model.engine(Arc::new(KeepAll), options);
    let request =
        |length: u32, tokens, seed| greedy((0..length).map(|i| (i * 7 + seed) % 97).collect(), tokens);
    let small = engine.submit(request(10, 20, 1)).unwrap();
    let refused = engine.submit(request(100, 5, 2)).unwrap_err();
    assert!(matches!(refused, EngineError::OutOfMemory(_)), "{refused}");
    assert!(refused.to_string().contains(&(9 * page).to_string()), "{refused}");
    // 96 tokens fit: two of the prompt, 94 generated; the 95th is known.
    let long = engine.submit(request(2, 110, 2)).unwrap();
    let later = engine.submit(request(20, 20, 3)).unwrap();
    let mut done = Vec::new();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            match output {
                Output::Finished(finished) => {
                    let short = matches!(finished.reason, FinishReason::OutOfMemory(_));
                    assert_eq!(short, finished.id == long, "{:?}", finished.reason);
                    assert_eq!(finished.token_ids.len(), if short { 95 } else { 20 });
                    done.push(finished.id);
                }
                Output::Failed { error, .. } => panic!("{error}"),
                Output::Token { .. } | Output::Prompt { .. } => {}
            }
        }
    }
    done.sort_unstable();
    assert_eq!(done, [small, long, later]);
    assert_eq!(engine.usage().unwrap().held_bytes, 0);
}

#[test]
fn cuda_slots_can_be_used_again() {
    let Some(device) = device("cuda_slots_can_be_used_again") else { return };
    let model = OnDevice::open(&device, "llama_kvpress/llama", DType::F32);
    let mut decoder = model.decoder(&KeepAll, 2);
    let free = decoder.free_pages().unwrap();
    for _ in 0..50 {
        let slots: Vec<Slot> = (0..2).map(|_| decoder.open().unwrap().unwrap()).collect();
        assert!(decoder.open().unwrap().is_none());
        let text = [3, 5, 8];
        let segment = |slot| DeviceSegment {
            slot,
            ids: &text,
            first_position: 0,
            stage: Stage::PromptEnd,
            budget: None,
            wanted: Wanted::Token { random: 0.0 },
        };
        let tokens = decoder.step(&[segment(&slots[0]), segment(&slots[1])], &mut |_| {}).unwrap().tokens;
        assert_eq!(tokens[0], tokens[1]);
        assert!(decoder.free_pages().unwrap() < free);
        drop(slots);
        assert_eq!(decoder.free_pages().unwrap(), free);
    }
}

#[test]
fn cuda_numbers_that_the_cache_cannot_hold_are_named() {
    let Some(device) = device("cuda_numbers_that_the_cache_cannot_hold_are_named") else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("gpt2_dcp/config.json"), folder.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(golden("gpt2_dcp/model.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    // Row 5 of [48, 144], whose last third are values.
    let first = &tensors["transformer.h.0.attn.c_attn.weight"]["data_offsets"][0];
    let place = 8 + header + first.as_u64().unwrap() as usize + 4 * (5 * 144 + 100);
    bytes[place..place + 4].copy_from_slice(&3e7f32.to_le_bytes());
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let model = OnDevice::open(&device, folder.path().to_str().unwrap(), DType::F32);
    let run = |kv_dtype: KvFormat| {
        let model = OnDevice { host: Model::open("gpt2_dcp"), weights: model.weights.clone(), kv_dtype };
        let mut engine =
            model.engine(Arc::new(KeepAll), EngineOptions { chunk: 2, ..EngineOptions::default() });
        engine.submit(greedy(vec![1, 2, 3], 3)).unwrap();
        let mut outputs = Vec::new();
        while !engine.is_idle() {
            outputs.extend(engine.step().unwrap());
        }
        (evaluate_on_device(&mut model.decoder(&KeepAll, 1), &[1, 2, 3], 2), outputs.pop())
    };
    let (evaluation, Some(Output::Failed { error, .. })) = run(KvFormat::F16) else { panic!("no error") };
    for error in [evaluation.unwrap_err(), error] {
        let error = error.to_string();
        assert!(error.contains("value of position 0 in layer 0") && error.contains("bf16"), "{error}");
    }
    let (evaluation, output) = run(KvFormat::Bf16);
    assert!(evaluation.is_ok() && matches!(output, Some(Output::Finished(_))), "{evaluation:?} {output:?}");
}
