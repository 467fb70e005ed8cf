//! `dropcap eval` as a user meets it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should fail")]

mod support;

use std::fs;

use serde_json::Value;
use support::{failure, output, text};

const TEXT: &str = "Once upon a time there was a clockmaker who lived beside the river. Every evening he wound the great \
clock of the town, and every morning the baker set her ovens by it.";

#[test]
fn one_call_measures_beside_the_dense_run_and_leaves_everything_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let (file, directory) = (folder.path().join("river.txt"), folder.path().join("results"));
    fs::write(&file, TEXT).unwrap();
    let task = format!("text={}", file.display());
    let call = |seed| {
        [
            "eval",
            "--device",
            "cpu",
            "--threads",
            "2",
            "--method",
            "dcp",
            "--task",
            &task,
            "--window",
            "24",
            "--task",
            "needle",
            "--length",
            "120",
            "--prompts",
            "2",
            "--seed",
            seed,
            "--output",
            text(&directory),
        ]
    };
    let table = output(&call("1"));
    for words in ["| text river.txt | none |", "| text river.txt | dcp |", "| needle 120 | dcp |", "KL 99 %"]
    {
        assert!(table.contains(words), "{table}");
    }
    assert_eq!(fs::read_to_string(directory.join("table.md")).unwrap(), table);
    let summary: Value = serde_json::from_slice(&fs::read(directory.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["results"].as_array().unwrap().len(), 4);
    assert_eq!(summary["configuration"]["methods"], serde_json::json!(["none", "dcp"]));
    assert!(fs::read_to_string(directory.join("report.html")).unwrap().contains("<svg"));
    let log = fs::read(directory.join("examples.jsonl")).unwrap();
    // Nothing is left to do, and nothing is done twice.
    assert_eq!(output(&call("1")), table);
    assert_eq!(fs::read(directory.join("examples.jsonl")).unwrap(), log);
    let error = failure(&call("2"));
    assert!(error.contains("differs in tasks"), "{error}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.jsonl");
    let good = "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 0}";
    for (second, words) in [
        ("{\"context\": \"a\", \"choices\": [], \"gold\": 0}", "`choices` is empty"),
        ("{\"context\": \"a\", \"choices\": [\"b\", \"c\"]}", "missing field `gold`"),
    ] {
        fs::write(&file, format!("{good}\n{second}\n")).unwrap();
        let error = failure(&["eval", "--device", "cpu", "--task", &format!("choices={}", file.display())]);
        assert!(error.contains("bad.jsonl line 2") && error.contains(words), "{error}");
    }
    let error = failure(&["eval", "--task", "boolq=x"]);
    assert!(error.contains("'boolq' is no task"), "{error}");
    let error = failure(&["eval", "--device", "cpu", "--task", "needle", "--length", "4K"]);
    assert!(error.contains("positions, and the model has 512"), "{error}");
    let error = failure(&["eval", "--device", "cpu", "--task", "needle", "--task", "needle"]);
    assert!(error.contains("is given twice"), "{error}");
}
