//! `dropcap compress` as a user meets it.

use std::fs;

use crate::support::{dropcap, failure, output, text};
use serde_json::Value;

const CODE: &str = "//! Clocks.\n\n/// Winds the clock of the town.\npub fn wind(turns: u32) -> u32 {\n    turns + 1\n}\n\n\
/// Bakes bread in the morning.\nfn bake(loaves: u32) -> u32 {\n    let warm = loaves * 2;\n    warm\n}\n\n\
impl River {\n    fn freeze(&mut self) {\n        self.ice = true;\n    }\n}\n";

fn compress(input: impl Into<Vec<u8>>, arguments: &[&str]) -> (String, String) {
    let all = [&["compress", "--device", "cpu", "--threads", "2"], arguments].concat();
    let output = dropcap(&all).write_stdin(input.into()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    (String::from_utf8(output.stdout).unwrap(), errors)
}

#[test]
fn a_text_goes_through_a_pipe_and_comes_out_shorter() {
    let (out, account) = compress(CODE, &["--budget", "0.5", "-l", "rust", "-i", "How is the clock wound?"]);
    assert!(!out.is_empty() && out.len() < CODE.len());
    let mut rest = CODE.chars();
    assert!(out.chars().all(|kept| rest.any(|letter| letter == kept)), "{out}");
    assert!(account.contains("tokens kept"), "{account}");
    let (asked, _) = compress(
        CODE,
        &["--budget", "0.5", "-l", "rust", "-i", "How is the clock wound?", "--append-instruction"],
    );
    assert_eq!(asked, format!("{out}\n\nHow is the clock wound?"));
    let (same, _) = compress(CODE, &["--budget", "1.0"]);
    assert_eq!(same, CODE);
    assert_eq!(compress("", &["--budget", "2K"]).0, "");
}

#[test]
fn an_object_tells_what_was_kept_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let (file, result) = (folder.path().join("clock.rs"), folder.path().join("short.json"));
    fs::write(&file, CODE).unwrap();
    for method in ["longcodezip", "perplexity"] {
        let arguments = [
            "compress",
            text(&file),
            "--device",
            "cpu",
            "--budget",
            "40",
            "-i",
            "bread",
            "--method",
            method,
            "--json",
            "-o",
            text(&result),
        ];
        assert_eq!(output(&arguments), "");
        let object: Value = serde_json::from_slice(&fs::read(&result).unwrap()).unwrap();
        assert!(object["tokens_after"].as_u64().unwrap() <= 40, "{object}");
        assert!(object["tokens_before"].as_u64().unwrap() > 40);
        let at = |span: &Value, key: &str| span[key].as_u64().unwrap() as usize;
        let spans = object["spans"].as_array().unwrap();
        let kept: String = spans.iter().map(|span| &CODE[at(span, "start")..at(span, "end")]).collect();
        assert_eq!(object["text"], kept.as_str());
        assert!(spans.iter().all(|span| span["score"].is_number()));
    }
}

#[test]
fn what_cannot_be_shortened_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary.rs");
    fs::write(&binary, b"a\xff").unwrap();
    let base = ["compress", text(&binary), "--budget", "0.5"];
    assert!(failure(&base).contains("not UTF-8"));
    assert!(failure(&[&base[..], &["--method", "longcodezip"]].concat()).contains("--instruction"));
    assert!(failure(&[&base[..], &["-l", "cobol"]].concat()).contains("cobol"));
    assert!(failure(&["compress", "--budget", "0"]).contains("no budget"));
    assert!(failure(&["compress", "--budget", "1.5"]).contains("no budget"));
    assert!(failure(&["compress", "/nonexistent", "--budget", "1"]).contains("/nonexistent"));
    let long = "word ".repeat(600);
    fs::write(&binary, CODE).unwrap();
    assert!(failure(&[&base[..], &["-i", &long]].concat()).contains("half of them"));
}

#[test]
fn sentences_stay_by_vectors_that_are_given_or_by_the_models_own() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = folder.path().join("vectors.jsonl");
    let passage = "The clock stood still. The bread was warm. Nobody came.";
    let lines = [
        ("clock?", [1, 0]),
        ("The clock stood still.", [2, 1]),
        ("The bread was warm.", [0, 1]),
        ("Nobody came.", [0, 2]),
    ];
    let lines: Vec<String> = lines
        .iter()
        .map(|(text, vector)| serde_json::json!({ "text": text, "vector": vector }).to_string())
        .collect();
    fs::write(&vectors, lines.join("\n")).unwrap();
    let base = ["--method", "context", "--budget", "12", "-i", "clock?"];
    let given = [&base[..], &["--vectors", text(&vectors)]].concat();
    assert_eq!(compress(passage, &given).0, "The clock stood still. ");
    let (own, _) = compress(passage, &[&base[..], &["--percentile", "40", "--floor=-1"]].concat());
    assert!(!own.is_empty() && own.len() < passage.len(), "{own}");
    fs::write(&vectors, lines[..2].join("\n")).unwrap();
    let refused = [&["compress", "-", "--vectors", text(&vectors)][..], &base].concat();
    let output = dropcap(&refused).write_stdin(passage).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("no vector for"), "{output:?}");
}

#[test]
fn a_prompt_is_pruned_by_a_task_and_keeps_its_placeholder() {
    let folder = tempfile::tempdir().unwrap();
    let (task, prompt) = (folder.path().join("task.jsonl"), folder.path().join("prompt.txt"));
    fs::write(
        &task,
        "{\"text\":\"warm bread\",\"label\":\"good\"}\n{\"text\":\"cold rain\",\"label\":\"bad\"}\n",
    )
    .unwrap();
    fs::write(&prompt, "Say whether it is good or bad.\n{text} is").unwrap();
    let base = ["compress", text(&prompt), "--device", "cpu", "--task", text(&task), "--json"];
    let object: Value =
        serde_json::from_str(&output(&[&base[..], &["--threshold", "0.9"]].concat())).unwrap();
    let left = object["text"].as_str().unwrap();
    assert!(left.contains("{text}"), "{left}");
    assert!(object["tokens_after"].as_u64().unwrap() < object["tokens_before"].as_u64().unwrap(), "{object}");
    assert_eq!(object["accepted"].as_array().unwrap().last().unwrap()["prompt"], left);
    // A search that is begun again asks nothing twice, and comes to the same.
    let journal = folder.path().join("journal.jsonl");
    let quine = [
        "--method",
        "promptquine",
        "--prompts",
        "60",
        "--offspring",
        "20",
        "--population",
        "5",
        "--least",
        "3",
    ];
    let noted = ["--journal", text(&journal)];
    let search = |journal: &[&str]| -> Value {
        let mut object: Value =
            serde_json::from_str(&output(&[&base[..], &quine, journal].concat())).unwrap();
        object["seconds"].take();
        object
    };
    let found = search(&noted);
    assert!(found["text"].as_str().unwrap().contains("{text}"), "{found}");
    assert!(found["after"]["probability"].as_f64() >= found["before"]["probability"].as_f64(), "{found}");
    let lines = fs::read_to_string(&journal).unwrap();
    let torn = lines.trim_end();
    fs::write(&journal, &torn[..torn.len() - 5]).unwrap();
    assert_eq!(search(&noted), found);
    assert_eq!(fs::read_to_string(&journal).unwrap(), lines);
    assert_eq!(search(&[]), found);
    let other = [&base[..], &noted, &["--model", "nowhere"]].concat();
    assert!(!failure(&other).is_empty());
    fs::write(&prompt, "{text} is").unwrap();
    assert!(failure(&[&base[..], &noted].concat()).contains("is of another search"));
    fs::write(&prompt, "no place").unwrap();
    assert!(failure(&base).contains("{text}"));
    assert!(
        failure(&["compress", text(&prompt), "--budget", "3", "--method", "tapruning"]).contains("--task")
    );
}
