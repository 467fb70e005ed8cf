//! `dropcap profile` as a user meets it.

use std::fs;

use crate::support::{both, copy, failure, output, text};
use serde_json::Value;

/// The carried model, on few and short prompts.
const SMALL: [&str; 8] = ["profile", "--threads", "2", "--samples", "2", "--length", "140", "--seed=4"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], more].concat()
}

#[test]
fn a_profile_is_written_for_the_methods_and_only_its_own_model_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.json");
    let (table, said) = both(&with(&["--kind", "duo", "--output", text(&path)]));
    assert!(
        table.contains("| layer-head | duo |") && said.contains("duo_attention(profile="),
        "{table}{said}"
    );
    let written = fs::read_to_string(&path).unwrap();
    let profile: Value = serde_json::from_str(&written).unwrap();
    assert_eq!((&profile["format"], &profile["kind"]), (&"dropcap-head-profile".into(), &"duo".into()));
    assert_eq!(profile["made"]["length"], 140);
    for scores in profile["heads"].as_object().unwrap().values() {
        let scores = scores.as_array().unwrap();
        assert_eq!(scores.len(), 2);
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(&score.as_f64().unwrap())));
    }
    output(&with(&["--kind", "duo", "--output", text(&path), "--chunk", "7"]));
    assert_eq!(fs::read_to_string(&path).unwrap(), written, "the same command writes the same bytes");

    let method = format!("duo_attention(profile={}, sinks=2, recent=8)", path.display());
    let generate = |model: &[&str]| {
        let call = [
            &["generate", "--device", "cpu", "--threads", "2", "--max-tokens", "2", "--method", &method][..],
            model,
        ];
        call.concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let own = generate(&["Once upon a time"]);
    output(&own.iter().map(String::as_str).collect::<Vec<_>>());
    let other = copy("llama_kvpress/llama", 128);
    let other = generate(&["--model", text(other.path()), "w1 w2"]);
    let error = failure(&other.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("heads.json") && error.contains("use a profile of this model"), "{error}");

    let model = profile["model"].as_str().unwrap();
    let (shape, digest) = model.rsplit_once('/').unwrap();
    fs::write(&path, written.replace(digest, &"0".repeat(32))).unwrap();
    let error = failure(&own.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(
        error.contains("was measured on another model") && error.contains("digest of the weights"),
        "{shape}: {error}"
    );
    let error = failure(&with(&["--profile", text(&path), "--mask-top", "1"]));
    assert!(error.contains("was measured on another model"), "{error}");
}

#[test]
fn heads_are_masked_and_as_many_others_as_often_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.json");
    output(&with(&["--kind", "duo", "--output", text(&path)]));
    let call = with(&["--profile", text(&path), "--mask-top", "2", "--mask-draws", "2"]);
    let table = output(&call);
    for line in
        ["| all heads |", "| without the top |", "| without others, draw 1 |", "| without others, draw 2 |"]
    {
        assert!(table.contains(line), "{table}");
    }
    let printed: Value = serde_json::from_str(&output(&[&call[..], &["--json"]].concat())).unwrap();
    let masked = printed["masked"].as_array().unwrap();
    let heads = |line: &Value| -> Vec<String> { serde_json::from_value(line["heads"].clone()).unwrap() };
    assert_eq!(masked.iter().map(|line| heads(line).len()).collect::<Vec<_>>(), [0, 2, 2, 2]);
    assert!(masked.iter().all(|line| line["asked"] == 2));
    let score = |head: &String| printed["heads"][head].as_f64().unwrap();
    let lowest = heads(&masked[1]).iter().map(score).fold(f64::INFINITY, f64::min);
    assert!(heads(&masked[2]).iter().all(|head| score(head) <= lowest && !heads(&masked[1]).contains(head)));
    assert_eq!(output(&call), table, "equal seeds draw equal heads");
}

#[test]
fn gates_are_learned_and_stay_between_nothing_and_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gates.json");
    let call =
        ["--kind", "duo_gates", "--sinks", "2", "--recent", "8", "--steps", "3", "--output", text(&path)];
    let (table, said) = both(&with(&call));
    assert!(table.contains("| layer-head | duo_gates |") && said.contains("mean gate"), "{table}{said}");
    let profile: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(profile["made"]["steps"], 3);
    let gates: Vec<f64> =
        profile["heads"].as_object().unwrap().values().map(|gate| gate[0].as_f64().unwrap()).collect();
    assert!(
        gates.iter().all(|gate| (0.0..=1.0).contains(gate)) && gates.iter().any(|gate| *gate < 1.0),
        "{gates:?}"
    );
}

#[test]
fn what_cannot_be_is_said_with_what_can() {
    let random = copy("llama_kvpress/llama", 128);
    let folder = tempfile::tempdir().unwrap();
    let tsv = folder.path().join("full_attention_heads.tsv");
    fs::write(&tsv, "0.5\t1\n0\t0.25\n1\t0\n0\t1\n").unwrap();
    let of_random = ["--model", text(random.path()), "--samples", "1", "--length", "100"];
    let random = |more: &[&'static str]| [&["profile"][..], &of_random, more].concat();
    let error = failure(&random(&["--kind", "retrieval"]));
    assert!(error.contains("answered none of 1 prompts") && error.contains("in place of"), "{error}");
    let mask = |top| [&["profile"][..], &of_random, &["--profile", text(&tsv), "--mask-top", top]].concat();
    assert!(output(&mask("4")).contains("| without others, draw 3 | 0 | 1 | 0.00 |"));
    let error = failure(&mask("5"));
    assert!(error.contains("the profile has 8; ask for 1 to 4"), "{error}");
    let gpt2 = copy("llama_kvpress/gpt2m", 128);
    let error = failure(&["profile", "--model", text(gpt2.path()), "--kind", "duo", "--length", "100"]);
    assert!(error.contains("positions of this model are learned"), "{error}");
    let error = failure(&["profile", "--kind", "retrieval", "--length", "20"]);
    assert!(error.contains("ask for more"), "{error}");
    for (more, words) in [
        (&["--kind", "duo", "--device", "cuda:0"][..], "--device cpu"),
        (&["--kind", "hydra"], "retrieval, duo, duo_gates"),
        (&["--kind", "duo_gates"], "lie within --sinks 128 and --recent 256"),
        (&["--profile", "nowhere.json", "--mask-top", "1"], "nowhere.json"),
        (&["--profile", text(&tsv), "--mask-top", "1"], "use a profile of this model"),
        (&["--profile", text(&tsv)], "--mask-top"),
        (&["--mask-top", "1"], "--kind"),
        (&["--kind", "duo", "--profile", text(&tsv), "--mask-top", "1"], "cannot be used with"),
    ] {
        let error = failure(&with(more));
        assert!(error.contains(words), "{more:?}: {error}");
    }
}
