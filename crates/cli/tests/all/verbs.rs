//! The other verbs as a user runs them: forward, bench, methods, help.

use crate::support::{golden, output, text};
use serde_json::Value;

#[test]
fn forward_writes_the_golden_logits_in_any_chunks() {
    let folder = tempfile::tempdir().unwrap();
    let (model, path) = (golden("llama_kvpress/qwen3"), folder.path().join("out.safetensors"));
    let vectors = dropcap_weights::TensorFile::open(&model.join("vectors.safetensors")).unwrap();
    let mut bytes = Vec::new();
    vectors.read_bytes("dense.40.ids", &mut bytes).unwrap();
    let ids: Vec<String> =
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()).to_string()).collect();
    let file = folder.path().join("ids.txt");
    std::fs::write(&file, format!("\u{feff}{}", ids.join("\n"))).unwrap();
    for chunk in ["1", "7", "40", "4K"] {
        output(&[
            "forward",
            "-m",
            text(&model),
            "--ids-file",
            text(&file),
            "--chunk",
            chunk,
            "-o",
            text(&path),
        ]);
        let found = dropcap_weights::TensorFile::open(&path).unwrap();
        assert_eq!(found.metadata()["format"], "dropcap-forward");
        assert_eq!(found.metadata()["version"], "1");
        assert_eq!(found.info("logits").unwrap().shape, [40, 128]);
        assert_eq!(found.info("layers.2.expires_at").unwrap().shape, [1, 40]);
        let (found, expected) =
            (found.read_f32("logits").unwrap(), vectors.read_f32("dense.40.logits").unwrap());
        assert!(found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-4));
    }
}

/// Whether what the command is built from differs from the commit.
fn sources_have_changed() -> bool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let sources = [
        "Cargo.toml",
        "Cargo.lock",
        "models/default",
        ":(glob)crates/*/src/**",
        ":(glob)crates/*/Cargo.toml",
        ":(glob)crates/*/build.rs",
    ];
    let mut status = std::process::Command::new("git");
    status.args(["-C", folder, "status", "--porcelain", "--"]).args(sources);
    status.output().is_ok_and(|output| !output.stdout.is_empty())
}

#[test]
fn bench_measures_a_model_in_all_formats() {
    let model = golden("gpt2_dcp");
    let common = [
        "bench",
        "-m",
        text(&model),
        "-p",
        "8,16",
        "-n",
        "4",
        "-d",
        "0-32+32",
        "-b",
        "1,2",
        "-r",
        "2",
        "--keep",
        "0.5",
    ];
    let object: Value = serde_json::from_str(&output(&[&common[..], &["--json"]].concat())).unwrap();
    let rows = object["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3 * 2 * 2 * 2, "tests x depths x batches x methods");
    assert!(rows.iter().all(|row| row["tokens_per_second"].as_f64().unwrap() > 0.0));
    assert!(object["machine"]["read_bytes_per_second"].as_f64().unwrap() > 1e8);
    let commit = object["machine"]["commit"].as_str().unwrap();
    assert_eq!(commit.ends_with("-dirty"), sources_have_changed() && commit != "unknown", "{commit}");
    let deep = |method: &str| {
        let rows = rows.iter().filter(|row| row["depth"] == 32 && row["test"] == "tg4" && row["batch"] == 2);
        rows.filter(|row| row["method"].as_str().unwrap().starts_with(method))
            .map(|row| row["live_bytes"].as_u64().unwrap())
            .next()
    };
    assert!(deep("simulate").unwrap() < deep("none").unwrap());
    let markdown = output(&[&common[..], &["-o", "md"]].concat());
    assert_eq!(markdown.lines().filter(|line| line.starts_with('|')).count(), rows.len() + 2);
    let csv = output(&[&common[..], &["-o", "csv"]].concat());
    assert_eq!(csv.lines().count(), rows.len() + 1);
}

#[test]
fn a_configuration_may_begin_with_a_byte_order_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.yaml");
    std::fs::write(&path, "\u{feff}model: org/name\ndata: {train: [a.txt]}\noutput: out\n").unwrap();
    assert!(output(&["train", "--print-config", "-c", text(&path)]).contains("org/name"));
}

#[test]
fn methods_lists_every_method_with_parameters_and_source() {
    let text = output(&["methods"]);
    for words in ["none", "dcp", "streaming_llm", "2305.15805", "2309.17453", "sinks", "propagate_in_depth"] {
        assert!(text.contains(words), "{words}");
    }
    let methods: Value = serde_json::from_str(&output(&["methods", "--json"])).unwrap();
    assert!(methods.as_array().unwrap().len() >= 3);
}

#[test]
fn help_names_every_verb() {
    let help = output(&["--help"]);
    for verb in ["generate", "forward", "bench", "methods", "train", "tokenizer"] {
        assert!(help.contains(verb));
        assert!(output(&[verb, "--help"]).contains("Usage"));
    }
}
