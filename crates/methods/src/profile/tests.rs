use super::*;
use crate::golden::path;

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
    let heads = profile.of_kv_heads(32, 8).unwrap();
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
    assert_eq!(profile.of_kv_heads(2, 2).unwrap(), [[0.625, 0.125], [0.5, 1.0]]);
}

#[test]
fn a_profile_of_another_model_names_both_shapes() {
    let profile = HeadProfile::read(&path("duo/full_attention_heads.tsv")).unwrap();
    for (layers, kv_heads) in [(28, 8), (32, 3), (32, 0), (32, 16)] {
        let message = profile.of_kv_heads(layers, kv_heads).unwrap_err().to_string();
        assert!(
            message.contains("full_attention_heads.tsv") && message.contains("32 layers of 8 heads"),
            "{message}"
        );
        assert!(message.contains(&format!("{layers} layers of {kv_heads} KV heads")), "{message}");
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
