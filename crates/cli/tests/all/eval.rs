//! `dropcap eval` as a user meets it.

use std::fs;

use crate::support::{failure, output, text};
use serde_json::Value;

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
    assert!(error.contains("positions, and the model has 1024"), "{error}");
    let error = failure(&["eval", "--device", "cpu", "--task", "needle", "--task", "needle"]);
    assert!(error.contains("is given twice"), "{error}");
}

/// A change of these numbers is a change of the shipped model, of what the learned method does, or of how it is measured.
#[test]
fn the_carried_model_reads_a_licence_as_it_did_when_it_was_shipped() {
    let task = concat!("text=", env!("CARGO_MANIFEST_DIR"), "/../../LICENSE-APACHE");
    let printed =
        output(&["eval", "--device", "cpu", "--method", "dcp", "--task", task, "--limit", "1", "--json"]);
    let results: Value = serde_json::from_str(&printed).unwrap();
    for (index, (method, perplexity, keep)) in
        [("none", 46.881, 1.0), ("dcp", 40.079, 0.2973)].iter().enumerate()
    {
        let found = &results["results"][index];
        assert_eq!(found["method"], *method);
        let measured = found["measures"][0]["value"].as_f64().unwrap();
        assert!((measured / perplexity - 1.0).abs() < 2e-3, "{method}: perplexity {measured}");
        let kept = found["keep"].as_f64().unwrap();
        assert!((kept - keep).abs() < 2e-3, "{method}: keep {kept}");
    }
}
