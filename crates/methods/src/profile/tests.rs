use serde_json::json;

use super::*;
use crate::golden::path;

fn facts(layers: usize, kv_heads: usize) -> ModelFacts {
    let family = "llama".to_owned();
    ModelFacts { layers, hidden: 8, kv_heads, head_dim: 4, family, fingerprint: None, directory: None }
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn refusal(text: &str) -> String {
    let (_folder, path) = written(text);
    HeadProfile::read(&path).unwrap_err().to_string()
}

#[test]
fn the_published_gates_are_read_as_they_are() {
    let profile = HeadProfile::read(&path("duo/full_attention_heads.tsv")).unwrap();
    let heads = profile.of_kv_heads(&facts(32, 8)).unwrap();
    assert_eq!((heads.len(), heads[0].len()), (32, 8));
    assert_eq!(heads[0][..3], [0.605_468_75, 0.0, 0.968_75]);
    assert_eq!(heads.iter().flatten().filter(|gate| **gate >= 1.0).count(), 57);
}

#[test]
fn trials_of_retrieval_heads_count_by_their_mean_and_groups_by_theirs() {
    let json = r#"{"1-0": [1.0], "0-0": [0.5, 0.0], "0-1": [1.0, 1.0], "0-2": [0], "0-3": [0.25],
        "1-1": [0.0], "1-2": [0.5], "1-3": [1.5]}"#;
    let (_folder, path) = written(json);
    let profile = HeadProfile::read(&path).unwrap();
    assert_eq!(profile.layers(), [[0.25, 1.0, 0.0, 0.25], [1.0, 0.0, 0.5, 1.5]]);
    assert_eq!(profile.of_kv_heads(&facts(2, 2)).unwrap(), [[0.625, 0.125], [0.5, 1.0]]);
}

#[test]
fn a_profile_of_another_model_names_both_shapes() {
    let profile = HeadProfile::read(&path("duo/full_attention_heads.tsv")).unwrap();
    for (layers, kv_heads) in [(28, 8), (32, 3), (32, 0), (32, 16)] {
        let message = profile.of_kv_heads(&facts(layers, kv_heads)).unwrap_err().to_string();
        assert!(
            message.contains("full_attention_heads.tsv") && message.contains("32 layers of 8 heads"),
            "{message}"
        );
        assert!(message.contains(&format!("{layers} layers of {kv_heads} KV heads")), "{message}");
    }
}

fn mark() -> Fingerprint {
    "llama/l2/c8/h4/g2/d4/v16/0123456789abcdef0123456789abcdef".parse().unwrap()
}

fn measured() -> MeasuredHeads {
    MeasuredHeads {
        kind: ProfileKind::Retrieval,
        name: "a \"model\"\n".into(),
        model: Some(mark()),
        made: json!({"samples": 2, "heads": "not these"}),
        trials: vec![
            vec![vec![0.1, 0.2], vec![0.0, 1.0], vec![1.0 / 3.0, 0.0], vec![0.0, 0.0]],
            vec![vec![1.5, 0.5], vec![0.0, 0.25], vec![1e-300, 0.0], vec![0.75, 0.0]],
        ],
    }
}

#[test]
fn what_is_written_is_read_back_as_the_means_of_the_trials() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.json");
    measured().write(&path).unwrap();
    let profile = HeadProfile::read(&path).unwrap();
    assert_eq!(profile.layers(), measured().means());
    assert_eq!(profile.layers()[0][..2], [(0.1 + 0.2) / 2.0, 0.5]);
    let text = std::fs::read_to_string(&path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["name"], "a \"model\"\n");
    assert_eq!(value["heads"]["1-0"], json!([1.5, 0.5]));
    // Any order of keys will do: other programs sort them.
    std::fs::write(&path, value.to_string()).unwrap();
    assert_eq!(HeadProfile::read(&path).unwrap().layers(), profile.layers());
}

#[test]
fn a_profile_that_names_its_model_is_refused_by_another() {
    let (_folder, path) = written(&measured().text());
    let profile = HeadProfile::read(&path).unwrap();
    let of = |fingerprint| ModelFacts { fingerprint, ..facts(2, 2) };
    assert!(profile.of_kv_heads(&of(Some(mark()))).is_ok());
    assert!(profile.of_kv_heads(&of(None)).is_ok());
    let other = Fingerprint { content: 7, ..mark() };
    let message = profile.of_kv_heads(&of(Some(other.clone()))).unwrap_err().to_string();
    assert!(message.contains("digest of the weights") && message.contains("dropcap profile"), "{message}");
    let unnamed = MeasuredHeads { model: None, ..measured() };
    let (_folder, path) = written(&unnamed.text());
    assert!(HeadProfile::read(&path).unwrap().of_kv_heads(&of(Some(other))).is_ok());
}

#[test]
fn the_methods_read_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    measured().write(&folder.path().join("heads.json")).unwrap();
    for (content, refused) in [(mark().content, false), (7, true)] {
        let fingerprint = Some(Fingerprint { content, ..mark() });
        let facts = ModelFacts { fingerprint, directory: Some(folder.path().into()), ..facts(2, 2) };
        for spec in ["duo_attention(profile=heads.json)", "headkv(snapkv, profile=heads.json)@0.5"] {
            let built = crate::build(&spec.parse().unwrap(), &facts);
            assert_eq!(built.is_err(), refused, "{spec}: {built:?}");
        }
    }
}

#[test]
fn what_is_odd_is_refused_with_its_place() {
    for (text, place) in [
        ("", "line 1: nothing"),
        ("0.5\t0.5\n0.5\n", "line 2: 1 numbers; expected 2"),
        ("0.5\t0.5\n0.5\tx\u{1b}[31m\n", r"line 2: column 2 is `x\u{1b}[31m`"),
        ("0.5\tNaN\n", "line 1: column 2 is `NaN`"),
        ("0.5\n\n", "line 2: column 1 is ``"),
        ("{}", "no heads"),
        ("{\"0-0\": [1.0], \"0-0\": [1.0]}", "head 0-0 is there twice"),
        ("{\"0-0\": []}", "head 0-0 has no trials"),
        ("{\"0-0\": [1.0],\n \"zero\": [1.0]}", "line 2"),
        ("{\"0-0\": [1.0], \"99999999999-0\": [1.0]}", "head 1-0"),
        ("{\"0-0\": [1.0], \"0-18446744073709551615\": [1.0]}", "head 0-1"),
        ("{\"0-0\": [1.0], \"0-1\": [1.0], \"1-1\": [1.0]}", "head 1-0: not there"),
        ("{\"0-0\": \"much\"}", "line 1"),
        ("{\"format\": \"other\", \"heads\": {}}", "the format is `other`"),
        ("{\"format\": \"dropcap-head-profile\", \"heads\": {\"0-0\": [1]}}", "its version is none"),
        (
            "{\"format\": \"dropcap-head-profile\", \"version\": 2, \"heads\": {\"0-0\": [1]}}",
            "its version is 2",
        ),
        ("{\"format\": \"dropcap-head-profile\", \"version\": 1}", "no heads"),
        ("{\"format\": \"dropcap-head-profile\", \"version\": 1, \"model\": \"x\"}", "is not a fingerprint"),
        ("{\"format\": \"dropcap-head-profile\", \"version\": 1, \"0-0\": [1], \"heads\": {}}", "outside"),
        ("{\"heads\": {\"0-0\": [1]}}", "no key \"format\""),
    ] {
        let message = refusal(text);
        assert!(message.contains(place) && message.contains("heads"), "{text:?}: {message}");
    }
    let missing = HeadProfile::read(Path::new("no/such/file")).unwrap_err().to_string();
    assert!(missing.contains("no/such/file"), "{missing}");
    let (_folder, path) = written("");
    std::fs::write(&path, [b'1', b'\n', 0xff]).unwrap();
    assert!(HeadProfile::read(&path).unwrap_err().to_string().contains("line 2"));
}

proptest::proptest! {
    #[test]
    fn no_text_stops_the_reader(text in "[{}0-9\"\\[\\], \t\n:.e-]{0,60}") {
        let (_folder, path) = written(&text);
        let _ = HeadProfile::read(&path);
    }
}
