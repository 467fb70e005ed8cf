//! Texts that begin alike share what the beginning left behind, and nobody notices but by the time it takes.

use crate::support::Model;
use crate::support::running::{all, cached, one_by_one, request, text, tokens};
use dropcap_engine::{Engine, EngineOptions, LogProbs, Output, PromptLogProbs, Request, TokenLogProb};

const MODEL: &str = "llama_kvpress/llama";
/// Tokens after which a cache is kept where a method forgets.
const STEP: usize = 128;

fn engine(model: &Model, method: &str, prefix_bytes: usize, kv_limit: Option<usize>) -> Engine {
    let options = EngineOptions { prefix_bytes, kv_limit, chunk: 96, ..EngineOptions::default() };
    Engine::new(model.decoder.clone(), model.method(method), model.team.clone(), options).unwrap()
}

#[test]
fn a_shared_beginning_is_worked_out_once_and_changes_no_token() {
    let model = Model::open(MODEL);
    let requests = [(300, 20, 0), (300, 25, 1), (300, 40, 2), (300, 40, 2), (70, 5, 3)]
        .map(|(shared, own, seed)| request(text(shared, own, seed)));
    for (method, shares) in [
        // Whole pages up to where two texts part; the whole prompt but for its last page is there for the repeated one.
        ("none", [0, 288, 288, 320, 64]),
        // Steps of the prompt.
        ("streaming_llm(sinks=4, recent=60)", [0, 2 * STEP, 2 * STEP, 2 * STEP, 0]),
    ] {
        let alone = one_by_one(&mut engine(&model, method, 0, None), &requests);
        assert_eq!(cached(&alone), [0; 5]);
        let mut sharing = engine(&model, method, 1 << 30, None);
        let shared = one_by_one(&mut sharing, &requests);
        assert_eq!(tokens(&shared), tokens(&alone), "{method}");
        assert_eq!(cached(&shared), shares, "{method}");
        for (shared, alone) in shared.iter().zip(&alone) {
            assert_eq!(shared.report.live_entries, alone.report.live_entries);
        }
        // Together, in the midst of each other.
        assert_eq!(tokens(&all(&mut sharing, &requests)), tokens(&alone), "{method}");
    }
}

#[test]
fn a_conversation_goes_on_where_its_last_turn_ended() {
    let model = Model::open(MODEL);
    for method in ["none", "streaming_llm(sinks=4, recent=28)"] {
        let mut sharing = engine(&model, method, 1 << 30, None);
        let first = request(text(0, 50, 1));
        let answer = one_by_one(&mut sharing, std::slice::from_ref(&first)).remove(0);
        let mut prompt = first.prompt;
        prompt.extend(&answer.token_ids);
        // The last token of an answer never went through the model.
        let fed = prompt.len() - 1;
        prompt.extend(text(0, 9, 5));
        let second = request(prompt);
        let alone = one_by_one(&mut engine(&model, method, 0, None), std::slice::from_ref(&second));
        let shared = one_by_one(&mut sharing, &[second]);
        assert_eq!(tokens(&shared), tokens(&alone), "{method}");
        assert_eq!(cached(&shared), [if method == "none" { fed / 32 * 32 } else { fed }]);
    }
}

#[test]
fn who_has_another_salt_shares_nothing() {
    let model = Model::open(MODEL);
    let mut sharing = engine(&model, "none", 1 << 30, None);
    let salted = |salt: &str| Request { salt: salt.to_owned(), ..request(text(200, 10, 0)) };
    let finished = one_by_one(&mut sharing, &["a", "b", "a"].map(salted));
    assert_eq!(cached(&finished), [0, 0, 192]);
}

#[test]
fn a_method_that_cuts_where_a_prompt_ends_shares_only_what_precedes_the_cut() {
    let model = Model::open(MODEL);
    let method = "streaming_llm(sinks=4, when=prefill_end)@0.5";
    let requests =
        [(300, 20, 0), (300, 90, 1), (320, 0, 1)].map(|(shared, own, seed)| request(text(shared, own, seed)));
    let alone = one_by_one(&mut engine(&model, method, 0, None), &requests);
    let shared = one_by_one(&mut engine(&model, method, 1 << 30, None), &requests);
    assert_eq!(tokens(&shared), tokens(&alone));
    assert_eq!(cached(&shared), [0, 2 * STEP, 2 * STEP]);
}

#[test]
fn what_is_kept_stays_within_its_bound_and_yields_to_texts_that_run() {
    let model = Model::open(MODEL);
    let pool =
        model.decoder.page_pool(model.method("none").as_ref(), dropcap_kernels::DType::F32, None).unwrap();
    let (page, layers) = (pool.layout().bytes(), model.checkpoint.config().layers);
    let requests: Vec<Request> = (0..6).map(|seed| request(text(0, 150 + seed, seed))).collect();
    let alone = one_by_one(&mut engine(&model, "none", 0, None), &requests);
    // Room for two such texts to be kept, then for hardly more than one at all.
    let bound = 12 * layers * page;
    for kv_limit in [None, Some(7 * layers * page)] {
        let mut sharing = engine(&model, "none", bound, kv_limit);
        let shared = one_by_one(&mut sharing, &requests);
        assert_eq!(tokens(&shared), tokens(&alone));
        assert!(sharing.prefix_bytes() <= bound && sharing.prefix_bytes() > 0);
        assert_eq!(sharing.usage().unwrap().held_bytes, sharing.prefix_bytes());
    }
}

#[test]
fn tokens_that_are_to_be_told_of_go_through_the_model() {
    let model = Model::open(MODEL);
    let told = |engine: &mut Engine, from: usize| -> Vec<TokenLogProb> {
        let log_probs = LogProbs { generated: None, prompt: Some(PromptLogProbs { from, top: 1 }) };
        engine.submit(Request { log_probs, ..request(text(200, 10, 0)) }).unwrap();
        let mut told = Vec::new();
        while !engine.is_idle() {
            for output in engine.step().unwrap() {
                if let Output::Prompt { log_probs, .. } = output {
                    told.extend(log_probs);
                }
            }
        }
        told
    };
    let mut sharing = engine(&model, "none", 1 << 30, None);
    let whole = told(&mut sharing, 0);
    assert_eq!(whole.len(), 209);
    assert_eq!(told(&mut sharing, 0), whole);
    assert_eq!(told(&mut sharing, 150), whole[149..]);
}
