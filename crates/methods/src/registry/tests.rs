use std::path::Path;

use dropcap_policy::conformance::{Scene, check};
use dropcap_weights::Fingerprint;
use proptest::prelude::*;

use super::*;
use crate::docs::usage;
use crate::{Gates, fuzzing};

const SCENE: Scene =
    Scene { layers: 2, kv_heads: 2, hidden: 8, sequences: 3, prompt: 80, decoded: 30, seed: 2 };

pub(crate) fn fingerprint(layers: usize, hidden: usize) -> Fingerprint {
    Fingerprint {
        family: "gpt2".into(),
        layers,
        hidden,
        heads: 2,
        kv_heads: 2,
        head_dim: 4,
        vocabulary: 97,
        content: 0x5eed,
    }
}

pub(crate) fn facts(layers: usize, hidden: usize, directory: Option<&Path>) -> ModelFacts {
    ModelFacts {
        layers,
        hidden,
        kv_heads: 2,
        head_dim: 4,
        family: "gpt2".into(),
        fingerprint: Some(fingerprint(layers, hidden)),
        directory: directory.map(Path::to_owned),
    }
}

/// A model folder with gates in it.
fn model() -> (tempfile::TempDir, ModelFacts) {
    let folder = tempfile::tempdir().unwrap();
    let gates = Gates::random(SCENE.layers, SCENE.hidden, 4, 1).unwrap();
    for name in ["pruning.safetensors", "a, b.safetensors"] {
        gates.save(&folder.path().join(name), &fingerprint(SCENE.layers, SCENE.hidden)).unwrap();
    }
    std::fs::write(folder.path().join("full_attention_heads.tsv"), "0.9\t0.1\n0.2\t1\n").unwrap();
    let retrieval = r#"{"0-0": [0.9], "0-1": [0.1], "0-2": [0.0], "0-3": [0.4], "1-0": [0], "1-1": [0], "1-2": [1], "1-3": [0]}"#;
    std::fs::write(folder.path().join("retrieval_heads.json"), retrieval).unwrap();
    let facts = facts(SCENE.layers, SCENE.hidden, Some(folder.path()));
    (folder, facts)
}

#[test]
fn every_method_conforms_with_its_defaults() {
    let (_folder, facts) = model();
    for method in METHODS {
        let policy = build(&usage(method).parse().unwrap(), &facts).unwrap();
        check(&policy, &SCENE).unwrap_or_else(|violation| panic!("{}: {violation}", method.name));
    }
}

#[test]
fn combinations_conform() {
    let (_folder, facts) = model();
    for text in [
        "streaming_llm(sinks=2, recent=20)",
        "streaming_llm(sinks=2, when=prefill_end)@0.3",
        "dcp(sinks=2, recent=6)",
        "dcp(propagate_in_depth=true) & streaming_llm@40",
        "dcp & dcp(gates=\"a, b.safetensors\") & none",
        "simulate(keep=0.5, width=3) & streaming_llm@24 & dcp",
        "knorm(when=every_query, sinks=2)@30",
        "keydiff(when=every_query, recent=4)@0.4",
        "tova(when=every_query, recent=0)@25",
        "h2o(recent=9, when=every_query)@20",
        "observed_attention(when=every_query)@0.3",
        "snapkv(window=7, kernel=3)@20",
        "a2sf(when=every_query, factor=0.8)@20",
        "lagkv(lag=8, across=true)@0.5",
        "expected_attention(future=20, covariance=false)@30",
        "compactor(first=3, last=2, chunk=16, sketch=3)@0.4",
        "random(when=every_query)@20",
        "duo_attention(sinks=2, recent=9)",
        "duo_attention(sinks=2, recent=9, when=prefill_end) & dcp",
        "ada(h2o(recent=9, when=every_query), floor=0.5)@20",
        "ada(pyramid(snapkv(window=3), beta=4))@0.3",
        "tova(when=every_query)@25 & h2o(when=every_query)@30",
        "h2o(recent=9, when=every_query, every=7)@20",
        "tova(when=every_query, every=5)@0.3",
        "tova(when=every_query, every=4)@25 & a2sf(when=every_query, every=6)@30",
        "keyformer(recent=5, temperature=1.5, when=every_query)@20",
        "keyformer(noise=false, when=every_query, every=3)@0.4 & streaming_llm(sinks=1, recent=30)",
        "nacl(proxies=7, sinks=2, recent=3, chance=0.5)@20",
        "citrus(chunk=16)@12",
        "citrus(chunk=7)@0.2",
        "citrus(chunk=10)@9 & knorm@30",
        "citrus(chunk=10)@9 & tova(when=every_query, every=4)@25",
        "headkv(h2o(recent=4, when=every_query), shared=0.5)@20",
        "ada(snapkv(window=7, group=max), rule=original)@20",
        "pyramid(snapkv(window=3), beta=4)@20",
        "squeeze(h2o(recent=4, when=every_query))@20",
        "squeeze(tova(when=every_query, every=3), least=0.1)@0.3",
        "squeeze(ada(snapkv(window=5)))@0.3",
        "squeeze(keydiff)@25 & h2o(when=every_query)@30",
        "dcp & squeeze(tova)@0.4",
        "key_rerotation(snapkv(window=7))@20",
        "key_rerotation(h2o(recent=4, when=every_query))@20",
        "streaming_llm(sinks=2, when=prefill_end, positions=cache)@0.3",
        "streaming_llm(sinks=2, recent=9, positions=cache)",
        "streaming_llm(sinks=2, recent=40) & tova(when=every_query)@25",
    ] {
        let policy = build(&text.parse().unwrap(), &facts).unwrap();
        check(&policy, &SCENE).unwrap_or_else(|violation| panic!("{text}: {violation}"));
    }
}

#[test]
fn methods_say_as_data_what_a_device_carries_out() {
    let (_folder, facts) = model();
    let sayable = |spec: &str| {
        let policy = build(&spec.parse().unwrap(), &facts).unwrap();
        policy.rules().is_some() && policy.rankings().is_some()
    };
    for method in METHODS {
        assert!(sayable(&usage(method)), "{}", method.name);
    }
    for around in ["ada(compactor)@0.2", "squeeze(keyformer)@0.2", "pyramid(nacl)@0.2", "snapkv(group=max)@9"]
    {
        assert!(sayable(around), "{around}");
    }
    for alone in ["ada(snapkv, rule=original)@0.2", "headkv(nacl, profile=retrieval_heads.json)@0.2"] {
        assert!(!sayable(alone), "{alone}");
    }
}

#[test]
fn every_method_is_documented_and_its_defaults_are_allowed() {
    for (index, method) in METHODS.iter().enumerate() {
        assert!(METHODS[..index].iter().all(|other| other.name != method.name), "{} twice", method.name);
        for text in [method.summary, method.details, method.source] {
            assert!(!text.is_empty() && !text.contains("  "), "{}: {text}", method.name);
        }
        usage(method).parse::<MethodSpec>().unwrap();
    }
}

#[test]
fn unknown_names_are_answered_with_what_there_is() {
    let message = |text: &str| text.parse::<MethodSpec>().unwrap_err().to_string();
    let unknown = message("streamingllm@2048");
    assert!(unknown.contains("did you mean `streaming_llm`") && unknown.contains("none, dcp"), "{unknown}");
    let unknown = message("dcp(gate=x)");
    assert!(unknown.contains("did you mean `gates`") && unknown.contains("propagate_in_depth"), "{unknown}");
    assert!(message("none(sinks=4)").contains("none takes no parameters"));
    assert!(message("dcp@0.5").contains("dcp takes no amount, got @0.5"));
    assert!(message("dcp(propagate_in_depth=yes)").contains("true or false"));
    assert!(message("simulate(keep=NaN)").contains("`NaN`"));
    assert!(message("simulate(keep=0)").contains("above 0"));
    assert!(message("simulate(width=0)").contains("from 1 to 4096"));
}

#[test]
fn what_is_wrong_in_a_spec_is_said_with_its_place() {
    // The place is that of the first `^`.
    for (text, place, words) in [
        ("none & quantize@4", "       ^", "no method `quantize`"),
        ("streaming_llm(sinks=4, recant=8)", "                       ^", "did you mean `recent`"),
        ("streaming_llm(sinks = -1)", "                      ^", "`sinks` is `-1`"),
        ("streaming_llm(recent=99999999999999999999)", "                     ^", "from 1 to 2147483647"),
        ("streaming_llm(when=prefill_end)@1.5", "                                ^", "up to 1.0"),
        ("streaming_llm(when=prefill_end)@NaN", "                                ^", "up to 1.0"),
        ("streaming_llm(when=prefill_end)@-0.5", "                                ^", "up to 1.0"),
        (
            "streaming_llm(when=prefill_end) @ 4G",
            "                                  ^",
            "from 1 to 2147483647",
        ),
        ("none & simulate(keep=1.01)", "                     ^", "up to 1"),
        ("dcp @ 0.5", "      ^", "takes no amount"),
        ("none & streaming_llm@3", "       ^", "no room"),
        ("streaming_llm(compression_ratio=0.8)", "              ^", "@0.2"),
        ("dcp(gates=a, gates=b)", "             ^", "given twice"),
        ("dcp(propagate_in_depth=1)", "                       ^", "true or false"),
    ] {
        let message = text.parse::<MethodSpec>().unwrap_err().to_string();
        let place = format!("at byte {} of the method: ", place.find('^').unwrap());
        assert!(message.starts_with(&place) && message.contains(words), "{text}: {message}");
    }
}

#[test]
fn compression_ratio_is_answered_with_the_share_kept() {
    for (given, instead) in
        [("0.8", "@0.2"), ("0.25", "@0.75"), ("0.0", "@1.0"), ("NaN", "@0.25"), ("x", "@0.25")]
    {
        let text = format!("streaming_llm(compression_ratio={given})");
        let message = text.parse::<MethodSpec>().unwrap_err().to_string();
        assert!(message.contains("KEPT") && message.contains(instead), "{message}");
    }
}

#[test]
fn a_share_removed_is_taken_for_the_share_kept_and_said() {
    for (text, meant) in [
        ("snapkv(compression_ratio=0.8)", "snapkv@0.2"),
        ("ada(snapkv(window=32), compression_ratio=0.5)", "ada(snapkv(window=32))@0.5"),
        ("streaming_llm(when=prefill_end, compression_ratio=0)", "streaming_llm(when=prefill_end)@1.0"),
    ] {
        let spec: MethodSpec = text.parse().unwrap();
        assert_eq!((&spec, spec.to_string().as_str()), (&meant.parse().unwrap(), meant));
        assert!(spec.notes()[0].contains(meant) && spec.notes()[0].contains("removed"), "{:?}", spec.notes());
        assert!(meant.parse::<MethodSpec>().unwrap().notes().is_empty());
    }
    let message = "SnapKVPress@0.2".parse::<MethodSpec>().unwrap_err().to_string();
    assert!(message.contains("did you mean `snapkv`"), "{message}");
}

#[test]
fn a_relative_gate_path_starts_at_the_models_folder() {
    let (folder, facts) = model();
    let missing = build(&"dcp(gates=no.safetensors)".parse().unwrap(), &facts).unwrap_err().to_string();
    assert!(missing.contains(&folder.path().join("no.safetensors").display().to_string()), "{missing}");
    let absolute = folder.path().join("pruning.safetensors");
    let elsewhere = ModelFacts { directory: Some("/nowhere".into()), ..facts };
    let text = format!("dcp(gates=\"{}\")", absolute.display());
    assert!(build(&text.parse().unwrap(), &elsewhere).is_ok());
}

#[test]
fn gates_of_another_model_are_refused_unless_told_otherwise() {
    let (_folder, mut facts) = model();
    let other = Fingerprint { content: 1, vocabulary: 98, ..fingerprint(facts.layers, facts.hidden) };
    facts.fingerprint = Some(other);
    let message = build(&"dcp".parse().unwrap(), &facts).unwrap_err().to_string();
    assert!(message.contains("vocabulary: expected 98, found 97"), "{message}");
    assert!(message.contains("digest"), "{message}");
    assert!(build(&"dcp(fingerprint=ignore)".parse().unwrap(), &facts).is_ok());
    facts.fingerprint = None;
    assert!(build(&"dcp".parse().unwrap(), &facts).is_ok());
}

fn term() -> impl Strategy<Value = (String, Vec<(String, String)>, Option<crate::Amount>)> {
    let name = "[a-zA-Z_][a-zA-Z0-9_-]{0,12}";
    // Anything but control characters may stand in quotes.
    let value = "[^\\p{Cc}]{0,20}";
    let pairs = proptest::collection::btree_map(name, value, 0..5).prop_map(|map| map.into_iter().collect());
    let amount = prop_oneof![
        Just(None),
        (1..=crate::MAX_COUNT).prop_map(|tokens| Some(crate::Amount::Tokens(tokens))),
        (f64::MIN_POSITIVE..=1.0).prop_map(|share| Some(crate::Amount::Share(share))),
    ];
    (name, pairs, amount)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_written_reads_back_the_same(terms in proptest::collection::vec(term(), 1..4)) {
        let written: Vec<String> = terms
            .iter()
            .map(|(name, arguments, amount)| {
                crate::Term { name: name.clone(), inner: None, arguments: arguments.clone(), amount: *amount }.to_string()
            })
            .collect();
        let spec = MethodSpec::parse_grammar(&written.join(" & ")).unwrap();
        prop_assert_eq!(spec.to_string(), written.join(" & "));
        for (term, (name, arguments, amount)) in spec.terms().iter().zip(&terms) {
            prop_assert_eq!((&term.name, &term.arguments, &term.amount), (name, arguments, amount));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        fuzzing::spec(text.as_bytes());
    }

    #[test]
    fn any_text_of_the_grammars_own_characters_is_read_or_refused(
        text in "(none|dcp|streaming_llm|sinks|recent|gates|when|[a-c0-9KMk.,()&@=\"\\\\ -]){0,24}",
    ) {
        fuzzing::spec(text.as_bytes());
    }

    #[test]
    fn any_bytes_are_gates_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        fuzzing::gate_file(&bytes, &folder.path().join("gates"));
    }
}

#[test]
fn a_budget_is_asked_for_once_and_around_what_ranks() {
    // The place is that of the first `^`.
    for (text, place, words) in [
        ("none & snapkv", "       ^", "@0.2 for the share"),
        ("ada(snapkv)", "^", "@0.2 for the share"),
        ("ada@0.2", "^", "ada(snapkv)@0.2"),
        ("ada(snapkv@0.3)@0.2", "           ^", "a second one"),
        ("ada(none)@0.2", "^", "knorm"),
        ("ada(snapkv(windw=3))@0.2", "           ^", "did you mean `window`"),
        ("ada(quantize)@0.2", "    ^", "no method `quantize`"),
        ("snapkv(h2o)@0.2", "^", "ada(snapkv)@0.2"),
        ("snapkv(kernel=4)@0.2", "              ^", "odd"),
        ("ada(snapkv(compression_ratio=0.8))@0.2", "           ^", "@0.2"),
        ("snapkv(compression_ratio=0.8)@0.2", "       ^", "@0.2"),
        ("snapkv(compression_ratio=1)", "       ^", "KEPT"),
        ("h2o(every=4)@0.2", "^", "when=every_query"),
        ("keyformer(temperature=0)@0.2", "                      ^", "above 0"),
        ("ada(snapkv, floor=1.5)@0.2", "                  ^", "from 0 to 1"),
        ("ada(key_rerotation(snapkv))@0.2", "^", "ada lets heads or layers keep"),
        ("key_rerotation(pyramid(snapkv))@0.2", "^", "pyramid lets heads or layers keep"),
        ("pyramid(ada(squeeze(snapkv)))@0.2", "^", "squeeze within it"),
    ] {
        let message = text.parse::<MethodSpec>().unwrap_err().to_string();
        let place = format!("at byte {} of the method: ", place.find('^').unwrap());
        assert!(message.starts_with(&place) && message.contains(words), "{text}: {message}");
    }
    let (_folder, facts) = model();
    let message = build(&"ada(tova)@0.2".parse().unwrap(), &facts).unwrap_err().to_string();
    assert!(message.contains("same tokens in all of them"), "{message}");
}

#[test]
fn what_turns_keys_to_consecutive_positions_stands_alone() {
    for text in
        ["key_rerotation(snapkv)@0.2 & dcp", "none & streaming_llm(when=prefill_end, positions=cache)@0.5"]
    {
        let message = text.parse::<MethodSpec>().unwrap_err().to_string();
        assert!(message.contains("would leave gaps"), "{message}");
    }
    let (_folder, facts) = model();
    let build = |text: &str| build(&text.parse().unwrap(), &facts).unwrap_err().to_string();
    assert!(build("key_rerotation(citrus)@0.2").contains("before the prompt has ended"));
    for inner in ["citrus", "nacl"] {
        assert!(build(&format!("squeeze({inner})@0.2")).contains("before the budgets of layers"));
    }
}
