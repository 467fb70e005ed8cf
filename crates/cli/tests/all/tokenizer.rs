//! `dropcap tokenizer train` as a user runs it.

use crate::support::{dropcap, failure, output, text};
use serde_json::Value;

#[test]
fn tokenizer_train_writes_a_tokenizer_that_a_model_can_use() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = folder.path().join("a.txt");
    std::fs::write(&corpus, "the cat sat on the mat\n\n<|endoftext|>\nthe dog ate the cat\n".repeat(9))
        .unwrap();
    let train = ["tokenizer", "train", text(&corpus), "-v", "270", "-o", text(folder.path())];
    let object: Value = serde_json::from_str(&output(&[&train[..], &["--json"]].concat())).unwrap();
    assert_eq!((object["vocabulary"].as_u64(), object["documents"].as_u64()), (Some(270), Some(10)));
    assert_eq!(object["output"], text(&folder.path().join("tokenizer.json")));
    let tokenizer = dropcap_model::Tokenizer::open(folder.path()).unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("the café").unwrap()).unwrap(), "the café");
    // It is not replaced by accident.
    let message = failure(&train);
    assert!(message.contains("tokenizer.json exists") && message.contains("--force"), "{message}");
    assert!(output(&[&train[..], &["--force"]].concat()).contains("270 tokens, from 10 documents"));
}

#[test]
fn tokenizer_train_names_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let (bad, out) = (folder.path().join("bad.txt"), folder.path().join("t.json"));
    std::fs::write(&bad, b"fine\n\xff\n").unwrap();
    let train = |more: &[&str]| failure(&[&["tokenizer", "train", "-o", text(&out)], more].concat());
    let message = train(&[text(&bad)]);
    assert!(message.contains("bad.txt line 2") && message.contains("UTF-8"), "{message}");
    assert!(train(&[text(&bad), "-v", "100"]).contains("257"));
    assert!(train(&["nowhere.txt"]).contains("nowhere.txt"));
    assert!(!out.exists());
}

#[test]
fn text_without_spaces_takes_seconds_and_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (folder.path().join("a.txt"), folder.path().join("t.json"));
    std::fs::write(&corpus, format!("{} {}", "ab".repeat(200_000), "a".repeat(2 << 20))).unwrap();
    let said =
        dropcap(&["tokenizer", "train", text(&corpus), "-v", "300", "-o", text(&out)]).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(out.exists() && said.contains("longer than 512 bytes"), "{said}");
}
