//! What a server asks of a device: ways to choose tokens that its sampler does not know, beginnings that texts share, budgets
//! of their own. Skips loudly without a GPU.

use super::on_device::{OnDevice, device};
use super::support::Model;
use super::support::running::{all, cached, one_by_one, request, text, tokens};
use dropcap_engine::{Engine, EngineError, EngineOptions, LogProbs, Output, Request, Sampling};
use dropcap_kernels::DType;
use dropcap_model::device::{DeviceDecoder, DeviceSegment, Slot, SlotState, Wanted};
use dropcap_policy::{KeepAll, Stage};

const MODEL: &str = "llama_kvpress/llama";

fn on_host(model: &Model, method: &str, options: EngineOptions) -> Engine {
    Engine::new(model.decoder.clone(), model.method(method), model.team.clone(), options).unwrap()
}

fn options(prefix_bytes: usize) -> EngineOptions {
    EngineOptions { prefix_bytes, kv_limit: Some(64 << 20), max_batch: 6, ..EngineOptions::default() }
}

#[test]
fn cuda_penalties_and_biases_choose_the_tokens_that_they_choose_on_the_host() {
    let Some(device) = device("cuda_penalties_and_biases_choose_the_tokens_that_they_choose_on_the_host")
    else {
        return;
    };
    let model = OnDevice::open(&device, MODEL, DType::F32);
    let plain = Sampling::default();
    let samplings = [
        Sampling { frequency_penalty: 0.6, ..plain.clone() },
        Sampling { presence_penalty: 1.5, repetition_penalty: 1.2, ..plain.clone() },
        Sampling { logit_bias: vec![(5, 30.0), (9, -100.0)], ..plain.clone() },
        Sampling {
            temperature: 0.9,
            top_k: 30,
            top_p: 0.95,
            min_p: 0.01,
            frequency_penalty: -0.5,
            seed: 7,
            ..plain.clone()
        },
        // One that the device chooses for, in the same steps.
        plain,
    ];
    let requests: Vec<Request> = samplings
        .into_iter()
        .enumerate()
        .map(|(seed, sampling)| Request { sampling, max_tokens: 25, ..request(text(0, 40, seed)) })
        .collect();
    let mut engine = model.engine(model.host.method("none"), options(0));
    let found = all(&mut engine, &requests);
    let expected = all(&mut on_host(&model.host, "none", options(0)), &requests);
    assert_eq!(tokens(&found), tokens(&expected));
    assert!(found[2].token_ids.iter().all(|&token| token == 5), "a bias of 30 decides");
    // With their log-probabilities, which are those of the model whatever is chosen.
    let told = Request { log_probs: LogProbs { generated: Some(2), prompt: None }, ..requests[0].clone() };
    let told = |engine: &mut Engine| -> Vec<(u32, f32)> {
        engine.submit(told.clone()).unwrap();
        let mut told = Vec::new();
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                if let Output::Token { token, log_prob, .. } = output {
                    told.push((token, log_prob.unwrap().log_prob));
                }
            }
        }
        told
    };
    let (found, expected) = (told(&mut engine), told(&mut on_host(&model.host, "none", options(0))));
    assert_eq!(found.len(), 25);
    for (found, expected) in found.iter().zip(&expected) {
        // Two float32 implementations with sums in different orders.
        assert!(found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-4, "{found:?} {expected:?}");
    }
}

#[test]
fn cuda_a_shared_beginning_is_worked_out_once_and_changes_no_token() {
    let Some(device) = device("cuda_a_shared_beginning_is_worked_out_once_and_changes_no_token") else {
        return;
    };
    let model = OnDevice::open(&device, MODEL, DType::F32);
    let requests = [(300, 20, 0), (300, 25, 1), (300, 40, 2), (300, 40, 2), (70, 5, 3)]
        .map(|(shared, own, seed)| request(text(shared, own, seed)));
    for (method, shares) in [
        ("none", [0, 288, 288, 320, 64]),
        // Places at 128 and 256 tokens of a prompt.
        ("streaming_llm(sinks=4, recent=60)", [0, 256, 256, 256, 0]),
        ("streaming_llm(sinks=4, when=prefill_end)@0.5", [0, 256, 256, 256, 0]),
    ] {
        let engine = |prefix_bytes| model.engine(model.host.method(method), options(prefix_bytes));
        let alone = one_by_one(&mut engine(0), &requests);
        assert_eq!(cached(&alone), [0; 5]);
        let mut sharing = engine(1 << 30);
        let shared = one_by_one(&mut sharing, &requests);
        assert_eq!(tokens(&shared), tokens(&alone), "{method}");
        assert_eq!(cached(&shared), shares, "{method}");
        for (shared, alone) in shared.iter().zip(&alone) {
            assert_eq!(shared.report.live_entries, alone.report.live_entries, "{method}");
            assert_eq!(shared.report.held_bytes, alone.report.held_bytes, "{method}");
        }
        // Together, in the midst of each other; and nothing but what is kept is held afterwards.
        assert_eq!(tokens(&all(&mut sharing, &requests)), tokens(&alone), "{method}");
        assert_eq!(sharing.usage().unwrap().held_bytes, sharing.prefix_bytes(), "{method}");
    }
}

#[test]
fn cuda_a_conversation_goes_on_where_its_last_turn_ended() {
    let Some(device) = device("cuda_a_conversation_goes_on_where_its_last_turn_ended") else { return };
    for (folder, method, length) in [
        (MODEL, "none", 50),
        (MODEL, "streaming_llm(sinks=4, recent=28)", 50),
        ("gpt2_dcp", "dcp(gates=pruning.safetensors)", 40),
        ("gpt2_dcp", "dcp(gates=pruning.safetensors, propagate_in_depth=true)", 40),
    ] {
        let model = OnDevice::open(&device, folder, DType::F32);
        let engine = |prefix_bytes| model.engine(model.host.method(method), options(prefix_bytes));
        let mut sharing = engine(1 << 30);
        let first = request(text(0, length, 1));
        let answer = one_by_one(&mut sharing, std::slice::from_ref(&first)).remove(0);
        let mut prompt = first.prompt;
        prompt.extend(&answer.token_ids);
        // The last token of an answer never went through the model.
        let fed = prompt.len() - 1;
        prompt.extend(text(0, 9, 5));
        let second = request(prompt);
        let alone = one_by_one(&mut engine(0), std::slice::from_ref(&second));
        let shared = one_by_one(&mut sharing, &[second]);
        assert_eq!(tokens(&shared), tokens(&alone), "{method}");
        assert_eq!(cached(&shared), [if method == "none" { fed / 32 * 32 } else { fed }], "{method}");
        assert_eq!(shared[0].report.live_entries, alone[0].report.live_entries, "{method}");
    }
}

#[test]
fn cuda_what_is_kept_stays_within_its_bound_and_yields_to_texts_that_run() {
    let Some(device) = device("cuda_what_is_kept_stays_within_its_bound_and_yields_to_texts_that_run") else {
        return;
    };
    let model = OnDevice::open(&device, MODEL, DType::F32);
    let decoder = model.decoder(&KeepAll, 1);
    let (page, layers) = (decoder.page_bytes(), decoder.config().layers);
    drop(decoder);
    let requests: Vec<Request> = (0..6).map(|seed| request(text(0, 150 + seed, seed))).collect();
    let alone = one_by_one(&mut model.engine(model.host.method("none"), options(0)), &requests);
    // Room for two such texts to be kept, then for hardly more than one at all.
    let bound = 12 * layers * page;
    for kv_limit in [64 << 20, 7 * layers * page] {
        let options = EngineOptions { kv_limit: Some(kv_limit), ..options(bound) };
        let mut sharing = model.engine(model.host.method("none"), options);
        let shared = one_by_one(&mut sharing, &requests);
        assert_eq!(tokens(&shared), tokens(&alone));
        assert!(sharing.prefix_bytes() <= bound && sharing.prefix_bytes() > 0);
        assert_eq!(sharing.usage().unwrap().held_bytes, sharing.prefix_bytes());
    }
}

/// One step of `count` tokens of a slot.
fn feed(decoder: &mut DeviceDecoder, slot: &Slot, first_position: u32, count: u32) -> SlotState {
    let ids: Vec<u32> = (first_position..first_position + count).map(|i| i * 7 % 97).collect();
    let wanted = Wanted::Nothing;
    let segment =
        DeviceSegment { slot, ids: &ids, first_position, stage: Stage::Prompt, budget: None, wanted };
    decoder.step(&[segment], &mut |_| {}).unwrap().states[0]
}

#[test]
fn cuda_a_copy_is_what_it_was_copied_from_and_lives_its_own_life() {
    let Some(device) = device("cuda_a_copy_is_what_it_was_copied_from_and_lives_its_own_life") else {
        return;
    };
    let model = OnDevice::open(&device, MODEL, DType::F32);
    let policy = model.host.method("streaming_llm(sinks=4, recent=60)");
    let mut decoder = model.decoder(policy.as_ref(), 2);
    let all_free = decoder.free_pages().unwrap();
    let first = decoder.open().unwrap().unwrap();
    feed(&mut decoder, &first, 0, 200);
    let before = decoder.lifetimes(&first).unwrap();
    let kept = decoder.keep_copy(&first).unwrap().unwrap();
    let state = feed(&mut decoder, &first, 200, 50);
    let after = decoder.lifetimes(&first).unwrap();
    assert_ne!(before, after);
    // Another begins there and becomes the same.
    let second = decoder.open().unwrap().unwrap();
    assert!(decoder.begin_with(&second, &kept, None).unwrap().is_some());
    assert_eq!(decoder.lifetimes(&second).unwrap(), before);
    assert_eq!(feed(&mut decoder, &second, 200, 50), state);
    assert_eq!(decoder.lifetimes(&second).unwrap(), after);
    // A text that is over gives its pages away, and has none then.
    let free = decoder.free_pages().unwrap();
    let whole = decoder.keep_all(&second).unwrap().unwrap();
    assert_eq!((decoder.free_pages().unwrap(), whole.pages()), (free, state.pages));
    drop((first, second));
    let third = decoder.open().unwrap().unwrap();
    assert_eq!(decoder.begin_with(&third, &whole, None).unwrap(), Some(state));
    assert_eq!(decoder.lifetimes(&third).unwrap(), after);
    drop((kept, whole, third));
    assert_eq!(decoder.free_pages().unwrap(), all_free);
}

#[test]
fn cuda_a_prompt_is_cut_to_its_own_budget_and_a_window_is_one_for_all() {
    let Some(device) = device("cuda_a_prompt_is_cut_to_its_own_budget_and_a_window_is_one_for_all") else {
        return;
    };
    let model = OnDevice::open(&device, MODEL, DType::F32);
    let requests =
        [Some(40), None, Some(70)].map(|kv_budget| Request { kv_budget, ..request(text(0, 200, 3)) });
    for method in
        ["streaming_llm(sinks=4, when=prefill_end)@120", "keydiff@120", "tova(when=every_query)@120"]
    {
        let found = all(&mut model.engine(model.host.method(method), options(0)), &requests);
        let expected = all(&mut on_host(&model.host, method, options(0)), &requests);
        assert_eq!(tokens(&found), tokens(&expected), "{method}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.report.live_entries, expected.report.live_entries, "{method}");
            assert_eq!(found.kv_budget, expected.kv_budget, "{method}");
        }
    }
    let mut windows = model.engine(model.host.method("streaming_llm@120"), options(0));
    let refused = windows.submit(requests[0].clone()).unwrap_err();
    assert!(matches!(refused, EngineError::BudgetOnDevice), "{refused}");
}
