use dropcap_policy::conformance::{Scene, lifetimes};

use super::*;
use crate::{MethodSpec, Term};

const NEVER: u32 = u32::MAX;

/// One prompt of 97 tokens, as in the vectors of the public implementation.
const SCENE: Scene =
    Scene { layers: 1, kv_heads: 1, hidden: 1, sequences: 1, prompt: 97, decoded: 20, seed: 1 };

fn parsed(text: &str) -> Result<StreamingLlm, MethodError> {
    let spec = MethodSpec::parse_grammar(text)?;
    let term: &Term = &spec.terms()[0];
    StreamingLlm::from_arguments(&Arguments::new(&METHOD, term)?)
}

/// Positions of the prompt that the first query after it still sees.
fn kept(policy: &StreamingLlm) -> Vec<u32> {
    let after = SCENE.prompt as u32;
    let lives = lifetimes(&policy.rules(), &SCENE).unwrap();
    lives
        .iter()
        .filter(|((_, _, _, position), life)| *position < after && life.0 > after)
        .map(|((_, _, _, position), _)| *position)
        .collect()
}

#[test]
fn prefill_end_keeps_what_kvpress_keeps() {
    // kvpress 0.5.4, StreamingLLMPress(n_sink=4) on a context of 97 tokens; see tests/golden/llama_kvpress.
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/llama_kvpress/llama/expected.json");
    let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    for (removed, share) in [("r0.25", "0.75"), ("r0.5", "0.5"), ("r0.8", "0.2")] {
        let policy = parsed(&format!("streaming_llm(sinks=4, when=prefill_end)@{share}")).unwrap();
        let positions = kept(&policy);
        for heads in golden["streaming_llm"][removed]["kept"].as_object().unwrap().values() {
            for head in heads.as_array().unwrap() {
                let expected: Vec<u32> = serde_json::from_value(head.clone()).unwrap();
                assert_eq!(positions, expected, "{share}");
            }
        }
    }
}

#[test]
fn prefill_end_lets_the_whole_prompt_see_itself_and_keeps_what_follows() {
    let policy = parsed("streaming_llm(sinks=2, when=prefill_end)@10").unwrap();
    for ((_, _, _, position), life) in lifetimes(&policy.rules(), &SCENE).unwrap() {
        let stays = !(2..89).contains(&position);
        assert_eq!(life, if stays { (NEVER, NEVER) } else { (97, 96) }, "{position}");
    }
}

#[test]
fn a_rolling_query_sees_the_sinks_and_the_window_with_itself() {
    let policy = parsed("streaming_llm(sinks=3, recent=7)").unwrap();
    let lives = lifetimes(&policy.rules(), &SCENE).unwrap();
    for query in 0..117 {
        let seen: Vec<u32> = lives
            .iter()
            .map(|((_, _, _, position), life)| (*position, life.0))
            .filter(|&(position, end)| position <= query && query < end)
            .map(|(position, _)| position)
            .collect();
        let expected: Vec<u32> = (0..=query).filter(|&p| p < 3 || p + 7 > query).collect();
        assert_eq!(seen, expected, "query {query}");
        assert!(seen.len() <= 10);
    }
}

#[test]
fn a_budget_is_sinks_and_recent_together() {
    for (short, long) in [
        ("streaming_llm@2K", "streaming_llm(sinks=4, recent=2044)"),
        ("streaming_llm(sinks=4, recent=508)@512", "streaming_llm"),
        ("streaming_llm(when=prefill_end)", "streaming_llm(when=prefill_end)@512"),
    ] {
        assert_eq!(parsed(short).unwrap(), parsed(long).unwrap());
    }
}

#[test]
fn what_contradicts_itself_is_refused_with_both_values() {
    for (text, words) in [
        ("streaming_llm(recent=100)@512", ["recent=100", "@512"]),
        ("streaming_llm(sinks=500, recent=100)@512", ["sinks=500", "600"]),
        ("streaming_llm(sinks=512)@512", ["sinks=512", "from 513 on"]),
        ("streaming_llm(sinks=4)@3", ["sinks=4", "@3"]),
        ("streaming_llm@0.5", ["@0.5", "when=prefill_end"]),
        ("streaming_llm(recent=8, when=prefill_end)@0.5", ["recent=8", "@0.5"]),
        ("streaming_llm(recent=0)", ["`recent` is `0`", "from 1"]),
        ("streaming_llm(sinks=-1)", ["`sinks` is `-1`", "from 0"]),
        ("streaming_llm(sinks=2147483648)", ["2147483648", "2147483647"]),
        ("streaming_llm(when=later)", ["`later`", "rolling or prefill_end"]),
        ("streaming_llm(recant=8)", ["recant", "did you mean `recent`"]),
    ] {
        let message = text.parse::<MethodSpec>().unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}

#[test]
fn huge_windows_never_overflow() {
    let policy = parsed("streaming_llm(sinks=2147483647, recent=2147483647)").unwrap();
    assert!(lifetimes(&policy.rules(), &SCENE).unwrap().values().all(|life| *life == (NEVER, NEVER)));
    let policy = parsed("streaming_llm(sinks=2147483647, recent=2147483647, when=prefill_end)").unwrap();
    assert!(lifetimes(&policy.rules(), &SCENE).unwrap().values().all(|life| *life == (NEVER, NEVER)));
    let literal = StreamingLlm { sinks: u32::MAX, when: When::PrefillEnd(PromptBudget::Share(f64::NAN)) };
    assert_eq!(kept(&literal).len(), 97);
}

#[test]
fn the_policy_needs_no_facts_of_the_model() {
    let arguments = MethodSpec::parse_grammar("streaming_llm@64").unwrap();
    let arguments = Arguments::new(&METHOD, &arguments.terms()[0]).unwrap();
    assert!((METHOD.build)(&arguments, &crate::registry::tests::facts(1, 1, None)).is_ok());
}
